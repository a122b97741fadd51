"""`NodeClient`: what kernels, the command and widgets say to the node."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ainet.client.answer import Answer
from ainet.config import default_data_dir
from ainet.daemon.runtime import wait_until_ready
from ainet.errors import AinetError, NodeNotRunning

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from types import TracebackType

    import httpx

#: Seconds in which a verb that computes or fetches nothing must have answered.
SHORT = 30.0
#: Seconds for verbs that load, pair or start processes, all of which have limits of their own.
LONG = 600.0


class NodeClient:
    """A connection to the node of this device. One client may be used from one thread at a time.

    Parameters
    ----------
    url
        The node's address, such as ``http://127.0.0.1:40123/``.
    token
        The node's token, from its runtime file.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/") + "/"
        self._token = token

    @classmethod
    def find(cls, data_dir: str | Path | None = None) -> NodeClient:
        """Return a client of the node that runs on `data_dir`, waiting while that node starts.

        Parameters
        ----------
        data_dir
            The node's data directory; by default ``AINET_DATA_DIR``, or ``ainet`` in Jupyter's data directory.

        Raises
        ------
        NodeNotRunning
            No node runs there.
        """
        running = wait_until_ready(Path(data_dir).expanduser().absolute() if data_dir else default_data_dir())
        return cls(running.url, running.token)

    def __enter__(self) -> NodeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if "_http" in self.__dict__:
            self._http.close()
            del self.__dict__["_http"]

    def status(self) -> dict[str, Any]:
        """Return the node, its members and its pipelines."""
        return self._call("GET", "status")

    def models(self) -> list[dict[str, Any]]:
        """Return the models that the node can use."""
        return self._call("GET", "models", timeout=LONG)

    def plan(
        self, model: str | None = None, stages: int | None = None, devices: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """Return which layers would run where, and why; nothing is loaded.

        Parameters
        ----------
        devices
            Devices to plan for in place of those that are there, the asking one first; see `DescribedDevice`.
        """
        if devices is not None:
            body = {"model": _whole_path(model), "stages": stages, "devices": devices}
            return self._call("POST", "plan", body, timeout=LONG)
        return self._call("GET", "plan", params={"model": _whole_path(model), "stages": stages}, timeout=LONG)

    def generate(self, messages: str | list[dict[str, str]], **options: Any) -> Generator[dict[str, Any], None, None]:
        """Generate, yielding events as they happen; closing the generator stops the generation on every stage.

        Parameters
        ----------
        messages
            The conversation, ``[{"role": "user", "content": "…"}]``, or the text of a single question.
        options
            `model` (a path is relative to the folder of the caller), `stages`, `raw`, `temperature`, `top_k`, `top_p`,
            `min_p`, `repeat_penalty`, `seed`, `max_tokens`, `stop`, `grammar`, `json_schema`; None leaves the default.

        Yields
        ------
        dict
            ``event`` is ``progress``, ``start``, ``text`` or, at the end, ``done``.

        Raises
        ------
        AinetError
            The node refused or failed.
        """
        import httpx

        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {"messages": messages} | {name: value for name, value in options.items() if value is not None}
        if "model" in body:
            body["model"] = _whole_path(body["model"])
        # Loading a model or fetching layers may be silent for long; a dead node closes the connection.
        timeout = httpx.Timeout(SHORT, read=None)
        try:
            with self._http.stream("POST", "generate", json=body, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    raise _error(response)
                for line in response.iter_lines():
                    event = json.loads(line)
                    if event["event"] == "error":
                        raise AinetError.from_dict(event["error"])
                    yield event
                    if event["event"] == "done":
                        return
        except httpx.TransportError as exc:
            raise self._gone(exc) from exc
        raise NodeNotRunning(f"The node at {self.url} stopped in the middle of the answer. `ainet logs` may say why.")

    def ask(self, messages: str | list[dict[str, str]], **options: Any) -> Answer:
        """Generate and return the whole answer; parameters and errors as of `generate`."""
        answer = Answer()
        for event in self.generate(messages, **options):
            answer.add(event)
        return answer

    def unload(self, model: str | None = None) -> list[str]:
        """Unload `model`, or all models; return the names of what was unloaded."""
        whole = _whole_path(model)
        path = f"pipelines/{quote(whole, safe='')}" if whole else "pipelines"
        return self._call("DELETE", path, timeout=LONG)["unloaded"]

    def invite(self, listen: str | None = None, minutes: float = 10.0, *, lan: bool = False) -> dict[str, Any]:
        """Return a one-time ticket for a further device of the owner; `lan` opens the node to the local networks."""
        return self._call("POST", "invitations", {"listen": listen, "minutes": minutes, "lan": lan})

    def join(self, ticket: str, name: str | None = None, *, lan: bool = False) -> dict[str, Any]:
        """Join the swarm that the ticket is for; `lan` opens the node to the local networks."""
        return self._call("POST", "membership", {"ticket": ticket, "name": name, "lan": lan}, timeout=LONG)

    def introduce(self, listen: str | None = None, minutes: float = 10.0, *, lan: bool = False) -> dict[str, Any]:
        """Return a one-time ticket with which a device of another owner becomes a contact."""
        return self._call("POST", "introductions", {"listen": listen, "minutes": minutes, "lan": lan})

    def accept(self, ticket: str, *, lan: bool = False) -> dict[str, Any]:
        """Become contacts with the device that gave out the ticket."""
        return self._call("POST", "contacts", {"ticket": ticket, "lan": lan}, timeout=LONG)

    def contacts(self) -> list[dict[str, Any]]:
        """Return the devices of other owners that were introduced."""
        return self._call("GET", "contacts")

    def forget(self, name: str) -> dict[str, Any]:
        """Forget a contact."""
        return self._call("DELETE", f"contacts/{quote(name, safe='')}")

    def settings(self) -> dict[str, str]:
        """Return the settings that all members share."""
        return self._call("GET", "settings")

    def set_setting(self, key: str, value: str | None) -> dict[str, str]:
        """Set one of them for all members, or take it back (None); return all."""
        return self._call("POST", "settings", {"key": key, "value": value})

    def notebooks(self) -> list[dict[str, Any]]:
        """Return the notebooks that members share."""
        return self._call("GET", "notebooks")

    def share(
        self, path: str, name: str | None = None, *, read_only: bool = False, audience: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Share a notebook of this node's Jupyter server with members and contacts; by default with the swarm."""
        wanted = {"path": path, "name": name, "read_only": read_only, "with": list(audience)}
        return self._call("POST", "notebooks", wanted, timeout=LONG)

    def unshare(self, name: str) -> dict[str, Any]:
        """Stop sharing a notebook."""
        return self._call("DELETE", f"notebooks/{quote(name, safe='')}")

    def open_notebook(self, name: str, path: str | None = None) -> dict[str, Any]:
        """Open a notebook that another device shares, as the file `path` of this node's Jupyter server."""
        return self._call("POST", "notebooks/open", {"name": name, "path": path}, timeout=LONG)

    def peers(self) -> list[dict[str, Any]]:
        """Return the other devices: how each is reached, and what it has."""
        return self._call("GET", "peers")

    def connect(self, address: str) -> dict[str, Any]:
        """Connect to whichever member listens at `address`, and remember it; return its name and the path."""
        return self._call("POST", "links", {"address": address})

    def members(self) -> list[dict[str, Any]]:
        """Return the members of the swarm."""
        return self._call("GET", "members")

    def remove(self, name: str) -> dict[str, Any]:
        """Remove a member from the swarm."""
        return self._call("DELETE", f"members/{quote(name, safe='')}", timeout=LONG)

    def export_key(self, passphrase: str) -> str:
        """Return the swarm's key, encrypted with `passphrase`."""
        return self._call("POST", "key/export", {"passphrase": passphrase}, timeout=LONG)["key"]

    def import_key(self, key: str, passphrase: str) -> dict[str, Any]:
        """Take over the swarm's key that another device exported."""
        return self._call("POST", "key/import", {"key": key, "passphrase": passphrase}, timeout=LONG)

    def open_client(self, workers: int | None = None) -> dict[str, Any]:
        """Start a Dask cluster of lent workers; return its id, address and TLS texts."""
        return self._call("POST", "clients", {"workers": workers}, timeout=LONG)

    def close_client(self, client: str) -> None:
        """End such a cluster."""
        self._call("DELETE", f"clients/{quote(client, safe='')}", timeout=LONG)

    @cached_property
    def _http(self) -> httpx.Client:
        import httpx

        return httpx.Client(
            base_url=self.url + "ainet/api/",
            headers={"Authorization": f"Bearer {self._token}", "User-Agent": f"ainet ({os.getpid()})"},
            # A proxy of the environment is for other hosts than this one.
            trust_env=False,
            # Plain HTTP: loading a bundle of authorities would take longer than the request.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        timeout: float = SHORT,
    ) -> Any:
        import httpx

        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            response = self._http.request(method, path, json=body, params=given, timeout=timeout)
        except httpx.TimeoutException as exc:
            raise NodeNotRunning(f"The node at {self.url} did not answer within {timeout:.0f} s.") from exc
        except httpx.TransportError as exc:
            raise self._gone(exc) from exc
        if not response.is_success:
            raise _error(response)
        return response.json()

    def _gone(self, cause: Exception) -> NodeNotRunning:
        return NodeNotRunning(f"The node at {self.url} does not answer any more ({cause}). `ainet logs` may say why.")


def _whole_path(model: str | None) -> str | None:
    """Return the name of a model; where it is a path, one that means the same in the node's own folder."""
    if not model or model.startswith("hf:"):
        return model
    path = Path(model)
    with contextlib.suppress(RuntimeError):  # nobody has that home
        path = path.expanduser()
    meant = model.startswith(("~", "./", "../")) or model.lower().endswith(".gguf")
    return str(path.absolute()) if meant or ("/" in model and path.is_file()) else model


def _error(response: httpx.Response) -> AinetError:
    try:
        return AinetError.from_dict(response.json())
    except ValueError:
        return AinetError(f"The node answered with HTTP status {response.status_code}.")
