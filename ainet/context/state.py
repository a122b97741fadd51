"""What the node tells of what it knows."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ainet.api.context import ContextDevice, ContextFolder, ContextProblem, ContextState, ContextVectorState
from ainet.context.remembered import notebooks

if TYPE_CHECKING:
    from ainet.context.folders import Progress
    from ainet.context.opened import Opened
    from ainet.context.places import Places

#: Files with problems that are told at once.
MOST_PROBLEMS = 100


def state_of(opened: Opened, places: Places) -> ContextState:
    """Return what is known of which folders; waits for the disk."""
    folders, problems = folders_of(opened, places)
    return ContextState(
        folders=folders,
        size=_size(opened.folder),
        problems=problems[:MOST_PROBLEMS],
        is_paused=opened.folders.is_paused,
        unwatched=opened.folders.unwatched,
        vectors=[ContextVectorState(name=one.name, left=one.left, owed=one.owed) for one in opened.storage.indexes()],
        vectors_failed=opened.vectors.failed,
        is_scrubbed=opened.storage.is_scrubbed(),
        notebooks=notebooks(opened.storage),
        devices=[
            ContextDevice(name=places.name(device), documents=one.all, here=one.whole, passages=one.passages)
            for device, one in opened.storage.replicas.kept().items()
        ],
    )


def folders_of(opened: Opened, places: Places) -> tuple[list[ContextFolder], list[ContextProblem]]:
    """Return the folders that were added, and what cannot be read of them; waits for the disk."""
    folders, problems = [], []
    for folder in opened.storage.folders():
        sources = opened.storage.sources(folder.id)
        failing = [source for source in sources.values() if source.problem]
        progress: Progress = opened.folders.progress(folder.id)
        problems += [
            ContextProblem(path=str(Path(folder.path) / source.path), problem=source.problem) for source in failing
        ]
        folders.append(
            ContextFolder(
                path=folder.path,
                label=folder.label,
                files=len(sources) - len(failing),
                passages=sum(source.passages for source in sources.values()),
                problems=len(failing),
                is_reading=progress.is_reading and not opened.folders.is_paused,
                done=progress.done,
                total=progress.total,
                failed=progress.failed,
                shared_with=[places.name(node) for node in opened.storage.audience(folder.id)],
            )
        )
    return folders, problems


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder, of which some may vanish meanwhile."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += (Path(parent) / name).stat().st_size
    return size
