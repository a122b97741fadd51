"""Keys for programs and people that may ask the model API, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ainet.api.limits import Limits, Text
from ainet.api.verb import Nothing, Verb

Name = Annotated[str, Limits(1, 64)]
Tokens = Annotated[int, Limits(1, 10**12)]
#: Seconds, at most ten years; see `parse_days`.
Span = Annotated[float, Limits(1, 3650 * 86400)]


@dataclass(frozen=True)
class AccessKey:
    """A key that was given to somebody.

    Attributes
    ----------
    created, expires, last_used
        Unix seconds; None for never.
    models
        Names of those that it opens; none: all.
    tokens_per_day
        Most tokens of prompts and answers, from midnight to midnight on this device; None: any number.
    may_buy
        Whether it may ask for answers that are bought of other owners.
    used_today
        Tokens since midnight.
    """

    name: str
    created: float
    expires: float | None
    models: list[str]
    tokens_per_day: int | None
    may_buy: bool
    used_today: int
    last_used: float | None


@dataclass(frozen=True)
class NewKeyRequest:
    """What a key opens, for how many seconds, and what it is called."""

    name: Name
    models: list[Text] = field(default_factory=list)
    tokens_per_day: Tokens | None = None
    expires_in: Span | None = None
    may_buy: bool = False


@dataclass(frozen=True)
class NewKey:
    """The key itself, which is told this once, and what it opens."""

    key: str
    opens: AccessKey


@dataclass(frozen=True)
class RevokeRequest:
    """The name of a key."""

    name: Name


create_access_key = Verb(
    "create_access_key", "make a key that opens the model API", "POST", "access-keys", NewKeyRequest, NewKey
)
access_keys = Verb("access_keys", "list keys of the model API", "GET", "access-keys", Nothing, list[AccessKey])
revoke_access_key = Verb(
    "revoke_access_key", "make a key open nothing any more", "DELETE", "access-keys/{name}", RevokeRequest, AccessKey
)
