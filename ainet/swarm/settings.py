"""Settings that all members of a swarm share: the document ``settings``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycrdt import Map

from ainet.api import swarm
from ainet.errors import UsageError

if TYPE_CHECKING:
    from ainet.api.answers import Answers
    from ainet.documents.exchange import Documents

#: The name of the document.
SETTINGS = "settings"
#: The settings, and their meaning.
KEYS = {"model": "model that is used when none is named, on every member that has it not set otherwise"}
MAX_VALUE = 1000  # characters


class SwarmSettings:
    """Reads and changes the settings; the last change of a key wins.

    Parameters
    ----------
    documents
        Of this node.
    answers
        The registry of answers to the owner's verbs.
    """

    def __init__(self, documents: Documents, answers: Answers) -> None:
        self._documents = documents
        answers.add(swarm.settings, self.show)
        answers.add(swarm.set_setting, self.change)
        documents.register(SETTINGS, stays=False)  # where this device joins a swarm, those of the swarm hold

    async def show(self) -> dict[str, str]:
        """Return what is set, for the owner."""
        return self.all()

    async def change(self, key: str, value: str | None = None) -> dict[str, str]:
        """Do what `set` does; return what is set then."""
        self.set(key, value)
        return self.all()

    def all(self) -> dict[str, str]:
        return {key: value for key in KEYS if (value := self.get(key)) is not None}

    def get(self, key: str) -> str | None:
        """Return a setting; None when it is not set, or not as it should be."""
        value = self._map().get(key)
        return value if isinstance(value, str) and 0 < len(value) <= MAX_VALUE else None

    def set(self, key: str, value: str | None) -> None:
        """Set `key` for all members; None takes it back.

        Raises
        ------
        UsageError
            There is no such setting, or the value is impossible.
        """
        if key not in KEYS:
            raise UsageError(f"There is no setting {key!r}. There are: {', '.join(KEYS)}.")
        if value is not None and not 0 < len(value) <= MAX_VALUE:
            raise UsageError(f"The value of {key} must have 1 to {MAX_VALUE} characters.")
        if value is None:
            self._map().pop(key, None)
        else:
            self._map()[key] = value

    def _map(self) -> Map[object]:
        return self._documents.open(SETTINGS).doc.get("dict", type=Map)
