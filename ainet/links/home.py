"""Which swarm the data on this device belong to, and what is done when the device joins another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.errors import AinetError
from ainet.files import write_private

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path

    from ainet.identity.identity import Identity


class Home:
    """Notes the swarm that the data on this device belong to.

    Parameters
    ----------
    identity
        Of this device.
    path
        The file of the note: what was not finished when the device joined another swarm is done at the next start.
    log
        For what cannot be put aside.
    """

    def __init__(self, identity: Identity, path: Path, log: logging.Logger) -> None:
        self._identity = identity
        self._path = path
        self._log = log
        self._callbacks: list[Callable[[str | None], object]] = []

    def on_left(self, callback: Callable[[str | None], object]) -> None:
        """Call `callback` when this device has joined another swarm.

        It is given the id of the swarm that was left, None if nobody else was in it: then what is on this device was
        only its own.
        """
        self._callbacks.append(callback)

    def check(self) -> None:
        """Finish leaving the swarm before, if this device ended in the middle of that; raises what `leave` raises."""
        known = self._path.read_text() if self._path.exists() else self._identity.swarm
        if known != self._identity.swarm:
            self.leave(known)
        else:
            self._note()

    def leave(self, left: str | None) -> None:
        """Have everybody put aside what belongs to the swarm that was left; for `left`, see `on_left`.

        Raises
        ------
        AinetError
            Something cannot be put aside; it is tried again at the next start.
        """
        for callback in self._callbacks:
            try:
                callback(left)
            except Exception as exc:
                self._log.exception("What belongs to the swarm that was left could not be put aside.")
                raise AinetError(
                    f"What belongs to the swarm that was left could not be put aside ({exc}). Start ainet anew."
                ) from exc
        self._note()

    def _note(self) -> None:
        write_private(self._path, self._identity.swarm.encode())
