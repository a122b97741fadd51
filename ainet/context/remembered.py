"""What the owner did in notebooks, where that is wished: cells that were executed, and conversations with models.

They lie in the storage like files of a device of their own, are private, and are kept until they are forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import PurePath
from typing import TYPE_CHECKING

from ainet.api import context as api
from ainet.errors import UsageError
from ainet.passages.secrets import without_secrets
from ainet.storage.records import Fingerprint, Passage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ainet.api.answers import Answers
    from ainet.context.opened import Opened
    from ainet.storage.hybrid import HybridStorage

#: The origin of what was done in notebooks.
REMEMBERED = "remembered"
PARSER = "remembered 1"


class NotebookMemory:
    """Remembers what is done in notebooks.

    Parameters
    ----------
    opened
        Opens what the node knows.
    is_there
        Whether the node knows anything yet.
    answers
        The registry of answers to the owner's verbs.
    """

    def __init__(self, opened: Callable[[], Awaitable[Opened]], is_there: Callable[[], bool], answers: Answers) -> None:
        self._opened, self._is_there = opened, is_there
        answers.add(api.context_remember, self.remember)
        answers.add(api.context_remember_item, self.remember_item)

    async def remember(self, path: str, mode: api.RememberMode = "status") -> api.Remembering:
        """Remember what is done in a notebook, or no more, or forget it; returns whether it is, and how much there is.

        Raises
        ------
        UsageError
            The path is not a whole one.
        """
        if not PurePath(path).is_absolute():
            raise UsageError(f"{path} is not a whole path.")
        if mode != "on" and not self._is_there():
            return api.Remembering(path=path, on=False, items=0)
        opened = await self._opened()
        state = await asyncio.to_thread(_switch, opened.storage, path, mode)
        if mode == "forget":
            await opened.leave_nothing()
        return state

    async def remember_item(
        self, *, path: str, item: str, kind: api.RememberedKind, text: str, output: str = "", ran: int = 0
    ) -> api.Remembering:
        """Remember a cell that was executed, or a question with its answer, where that is wished."""
        state = await self.remember(path)
        if state.on:
            opened, name = await self._opened(), PurePath(path).name
            said = [Passage(text, kind, name, 1, text.count("\n") + 1, item, ran)]
            said += [Passage(output, "output", name, cell=item, ran=ran)] if output.strip() else []
            await asyncio.to_thread(_write, opened.storage, path, item, said)
            opened.vectors.notice()
        return state


def notebooks(storage: HybridStorage) -> list[api.Remembering]:
    """Return the notebooks of which something is remembered, or shall be; waits for the disk."""
    return [
        _switch(storage, folder.path.removeprefix(f"{REMEMBERED}:"), "status") for folder in storage.folders(REMEMBERED)
    ]


def _switch(storage: HybridStorage, notebook: str, mode: api.RememberMode) -> api.Remembering:
    folder, setting = f"{REMEMBERED}:{notebook}", f"remembers {notebook}"
    if mode == "on":
        storage.add_folder(folder, "private", origin=REMEMBERED)
        storage.note_setting(setting)
    elif mode != "status":
        storage.drop_setting(setting)
    there = [one.id for one in storage.folders(REMEMBERED) if one.path == folder]
    if mode == "forget":
        for number in there:
            storage.remove_folder(number)
        there = []
    items = sum(len(storage.sources(number)) for number in there)
    return api.Remembering(path=notebook, on=storage.setting(setting) is not None, items=items)


def _write(storage: HybridStorage, notebook: str, item: str, said: list[Passage]) -> None:
    """Have this in place of what was remembered of an item."""
    whole = "\0".join(one.text for one in said).encode(errors="replace")
    version = storage.stage(
        storage.folder(f"{REMEMBERED}:{notebook}", REMEMBERED).id,
        item,
        Fingerprint(len(whole), 0, hashlib.sha256(whole).digest()),
        parser=PARSER,
        passages=[one for one in without_secrets(said) if one.text.strip()],
    )
    storage.commit(version)
