"""Dask clusters for the owner's own code, made of workers that members lend."""

from __future__ import annotations

from dataclasses import dataclass

from ainet.api.limits import Count, Text
from ainet.api.verb import LONG, Nothing, Verb


@dataclass(frozen=True)
class OpenClientRequest:
    """The number of lent workers that are wanted; None: all that members lend."""

    workers: Count | None = None


@dataclass(frozen=True)
class ClientTls:
    """Credentials that the cluster's scheduler accepts, as PEM texts."""

    ca: str
    cert: str
    key: str


@dataclass(frozen=True)
class LentProcess:
    """A worker process on the device called `node`."""

    node: str
    pid: int


@dataclass(frozen=True)
class OpenedClient:
    """A cluster: its name, its scheduler's address (``tls://host:port``), and its workers."""

    id: str
    address: str
    tls: ClientTls
    workers: list[LentProcess]


@dataclass(frozen=True)
class CloseClientRequest:
    """Which cluster to end."""

    id: Text


open_client = Verb(
    "open_client", "start a cluster of lent workers", "POST", "clients", OpenClientRequest, OpenedClient, LONG
)
close_client = Verb("close_client", "end such a cluster", "DELETE", "clients/{id}", CloseClientRequest, Nothing, LONG)
