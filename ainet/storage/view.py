"""What may be seen of the storage: all of it by the owner, parts of it by others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.errors import NotFound
from ainet.storage.full_text import FullText
from ainet.storage.records import Fingerprint, Folder, Passage, Source, StoredPassage
from ainet.storage.relations import Relations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.storage.database import Reader
    from ainet.storage.records import Found

_SOURCE = (
    "SELECT sources.id, folder, path, size, modified, hash, parser, problem, "
    "(SELECT count(*) FROM passages WHERE version = versions.id) "
    "FROM sources JOIN versions ON versions.source = sources.id AND is_current"
)


class StorageView:
    """Sources, passages and relations that can be seen through a connection. Any thread may call it.

    Parameters
    ----------
    reader
        The connection. Whatever its tables do not show is in no result, count or score.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._found = FullText(reader.connection)
        #: What passages have to do with each other.
        self.relations = Relations(reader)

    def folders(self, origin: str | None = "") -> list[Folder]:
        """Return the folders that were added: on this device, on another one (node id), or on all of them (None)."""
        rows = self._reader.ask(
            "SELECT id, path, label, origin FROM folders WHERE ?1 IS NULL OR origin = ?1 ORDER BY path", (origin,)
        )
        return [Folder(*row) for row in rows]

    def folder(self, path: str, origin: str = "") -> Folder:
        """Return the folder that was added under this path; raises `NotFound`."""
        for folder in self.folders(origin):
            if folder.path == path:
                return folder
        raise NotFound(f"{path} was not added. `ainet context list` shows what was.")

    def sources(self, folder: int) -> dict[str, Source]:
        """Return the sources of a folder by their paths."""
        rows = self._reader.ask(f"{_SOURCE} WHERE folder = ?", (folder,))
        return {
            path: Source(number, of, path, Fingerprint(size, modified, digest), parser, passages, problem)
            for number, of, path, size, modified, digest, parser, problem, passages in rows
        }

    def passages(self, numbers: Sequence[int]) -> list[StoredPassage]:
        """Return the passages with these numbers, in this order, as far as they are current."""
        rows = self._reader.ask(
            "SELECT current_passages.id, sources.id, folders.path, sources.path, dated, "
            "text, kind, name, first_line, last_line, cell, ran "
            "FROM current_passages JOIN versions ON versions.id = version JOIN sources ON sources.id = source "
            "JOIN folders ON folders.id = folder WHERE current_passages.id IN (SELECT value FROM json_each(?))",
            (str(list(numbers)),),
        )
        found = {
            number: StoredPassage(number, source, folder, path, dated, Passage(*passage))
            for number, source, folder, path, dated, *passage in rows
        }
        return [found[number] for number in numbers if number in found]

    def search(
        self,
        question: str,
        n: int = 10,
        *,
        below: str | None = None,
        kind: str | None = None,
    ) -> list[Found]:
        """Return the `n` passages whose words fit a question best; see `FullText.search`."""
        with self._reader.reading():
            return self._found.search(question, n, below=below, kind=kind)

    def coverage(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return how much of what a question says is in each text; see `FullText.coverage`."""
        with self._reader.reading():
            return self._found.coverage(question, texts)

    def together(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return how far a question's neighbours are neighbours in each text; see `FullText.together`."""
        with self._reader.reading():
            return self._found.together(question, texts)

    def weights(self, terms: Sequence[str]) -> dict[str, float]:
        """Return how much each term says: its inverse document frequency."""
        with self._reader.reading():
            return self._found.weights(terms)

    def among(self, passages: Sequence[int], *, below: str | None = None, kind: str | None = None) -> list[int]:
        """Return those of the passages that are in a folder or file, and of a kind."""
        rows = self._reader.ask(
            "SELECT current_passages.id FROM current_passages JOIN versions ON versions.id = version "
            "JOIN sources ON sources.id = source JOIN folders ON folders.id = folder "
            "WHERE current_passages.id IN (SELECT value FROM json_each(?)) "
            "AND (? IS NULL OR substr(folders.path || '/' || sources.path || '/', 1, length(?) + 1) = ? || '/') "
            "AND (? IS NULL OR current_passages.kind = ?)",
            (str(list(passages)), below, below, below, kind, kind),
        )
        return [number for (number,) in rows]

    def all_among(self, *, below: str | None, kind: str | None, most: int) -> list[int]:
        """Return the passages in a folder or file, and of a kind; at most this number."""
        rows = self._reader.ask(
            "SELECT passages.id FROM folders JOIN sources ON folder = folders.id "
            "JOIN versions ON source = sources.id AND is_current JOIN passages ON version = versions.id "
            "WHERE (? IS NULL OR substr(folders.path || '/' || sources.path || '/', 1, length(?) + 1) = ? || '/') "
            "AND (? IS NULL OR passages.kind = ?) LIMIT ?",
            (below, below, below, kind, kind, most),
        )
        return [number for (number,) in rows]

    def saying(self, text: str) -> dict[int, str]:
        """Return the sources that have these words, in this order, with their whole paths."""
        rows = self._reader.ask(
            "SELECT DISTINCT sources.id, folders.path || '/' || sources.path FROM words "
            "JOIN passages ON passages.id = words.rowid JOIN versions ON versions.id = version "
            "JOIN sources ON sources.id = source JOIN folders ON folders.id = folder WHERE words MATCH ?",
            ('"' + text.replace('"', '""') + '"',),
        )
        return {number: path.rstrip("/") for number, path in rows}

    def count(self) -> int:
        """Return how many passages there are."""
        with self._reader.reading():
            return self._found.count()

    def recount(self) -> None:
        """Know nothing any more of how many passages have a word: see `FullText.recount`."""
        self._found.recount()

    def close(self) -> None:
        """Close the connection; nothing else may be called afterwards."""
        self._found.close()
        self._reader.close()
