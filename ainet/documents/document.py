"""A document that several devices edit at once: a Yjs document, saved change by change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pycrdt import Doc, get_update

from ainet.errors import AinetError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pycrdt import TransactionEvent

    from ainet.documents.store import DocumentStore

#: An update that changes nothing.
NOTHING = b"\0\0"
MAX_DOCUMENT = 64 * 1024 * 1024  # bytes
#: Updates are replaced by a snapshot when they are this many, or several times as large as it was.
COMPACT_UPDATES = 500
COMPACT_FACTOR = 4
COMPACT_BYTES = 256 * 1024


T = TypeVar("T")


class Incomplete(Refused):
    """An update follows others that are not here: they must be asked for."""


class Document:
    """A document, and its place in a store.

    Parameters
    ----------
    name
        Its name in the store.
    store
        The store in which it is kept; it is loaded from there.
    on_update
        Called with the document, each update, and the origin that `apply` was given (None: changed here).
    most
        Bytes that it may have.

    Attributes
    ----------
    doc
        The Yjs document. Fetch it anew for each use: after a malformed update it is another one.
    """

    def __init__(
        self,
        name: str,
        store: DocumentStore,
        on_update: Callable[[Document, bytes, object], None],
        *,
        most: int = MAX_DOCUMENT,
    ) -> None:
        self.name = name
        self._most = most
        self._store = store
        self._on_update = on_update
        self._origin: object = None
        self._error: AinetError | None = None
        self._compacted = 0
        self._scratch: Doc[Any] = Doc()
        self._views: dict[Any, Any] = {}
        self._former: list[dict[Any, Any]] = []  # views of documents that were replaced
        self._load()

    def view(self, kind: Callable[[Doc[Any]], T]) -> T:
        """Return the one view of this kind on the document, such as a `jupyter_ydoc.YNotebook`.

        There is one as long as the document lives: pycrdt crashes when an undo manager ends before its document.
        """
        if kind not in self._views:
            self._views[kind] = kind(self.doc)
        return self._views[kind]

    @property
    def state(self) -> bytes:
        """The state vector: what this side has seen."""
        return self.doc.get_state()

    @property
    def size(self) -> int:
        """Bytes of its updates, which is at least its size."""
        return self._bytes

    def missing(self, state: bytes) -> bytes:
        """Return what somebody lacks who has seen `state`; raises `Refused` when that is no state vector."""
        try:
            return self.doc.get_update(state)
        except Exception as exc:  # pycrdt raises several kinds
            raise Refused(f"That is no state of a document ({exc}).") from exc

    def apply(self, update: bytes, origin: object = None) -> bool:
        """Merge an update that came from elsewhere; tell whether it changed anything.

        Raises
        ------
        Refused
            It is malformed, or the document would be too large: nothing was changed.
        Incomplete
            Others must come first: nothing was changed.
        AinetError
            It cannot be saved.
        """
        if self._bytes + len(update) > self._most:
            self.compact()
            if self._bytes + len(update) > self._most:
                raise Refused(f"The document {self.name} would have more than {self._most >> 20} MiB.")
        before, touched = self._count, False
        self._origin = origin
        try:
            # A malformed update may raise after it has changed a document: it must not be this one.
            self._scratch.apply_update(update)
            if _is_incomplete(update, self._scratch.get_state()):
                # yrs keeps it for later, but neither counts nor saves it.
                self._renew_scratch()
                raise Incomplete(f"A change of {self.name} came before those that it follows.")
            touched = True
            self.doc.apply_update(update)
        except Incomplete:
            raise
        except BaseException as exc:  # pycrdt's panics are no Exceptions
            if touched:
                self._load()  # what was saved is sound
            else:
                self._renew_scratch()
            if isinstance(exc, KeyboardInterrupt | SystemExit):
                raise
            raise Refused(f"A change of {self.name} is malformed ({type(exc).__name__}).") from exc
        finally:
            self._origin = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._count != before

    def compact(self) -> None:
        """Replace the saved updates by a snapshot."""
        snapshot = self.doc.get_update()
        self._store.replace(self.name, snapshot)
        self._count, self._bytes = 1, len(snapshot)
        self._compacted = len(snapshot)

    def close(self) -> None:
        self.doc.unobserve(self._subscription)

    def _renew_scratch(self) -> None:
        self._scratch = Doc()
        self._scratch.apply_update(self.doc.get_update())

    def _load(self) -> None:
        """Make the document of what is saved."""
        self._former.append(self._views)
        self._views = {}
        self.doc: Doc[Any] = Doc()
        self._scratch = Doc()
        self._count = self._bytes = 0
        for update in self._store.updates(self.name):
            self.doc.apply_update(update)
            self._scratch.apply_update(update)
            self._count, self._bytes = self._count + 1, self._bytes + len(update)
        self._subscription = self.doc.observe(self._changed)

    def _changed(self, event: TransactionEvent) -> None:
        update = event.update
        if update == NOTHING:
            return
        if self._origin is None:
            self._scratch.apply_update(update)
        try:
            self._store.append(self.name, update)
        except AinetError as exc:
            self._error = exc  # an exception would be lost in the library that calls
        self._count, self._bytes = self._count + 1, self._bytes + len(update)
        self._on_update(self, update, self._origin)

    def compact_if_due(self) -> None:
        """Replace the saved updates by a snapshot when they have become many."""
        grown = self._bytes > max(COMPACT_BYTES, COMPACT_FACTOR * self._compacted)
        if self._count > COMPACT_UPDATES or grown:
            self.compact()


def _is_incomplete(update: bytes, state: bytes) -> bool:
    """Tell whether `update` needs changes that the document in which it was applied, with this state, has not seen."""
    rest = get_update(update, state)
    if rest[0]:
        return True  # blocks that wait for others
    known, numbers = clocks(state), _numbers(rest[1:])
    for _ in range(next(numbers)):  # else the deletions, by client
        client = next(numbers)
        for _ in range(next(numbers)):
            if next(numbers) + next(numbers) > known.get(client, 0):
                return True
    return False


def clocks(state: bytes) -> dict[int, int]:
    """Return what a state vector says: how many changes of each client were seen."""
    numbers = _numbers(state)
    return {next(numbers): next(numbers) for _ in range(next(numbers))}


def _numbers(data: bytes) -> Iterator[int]:
    """Yield the variable-length numbers (7 bits a byte, lowest first) in `data`."""
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
