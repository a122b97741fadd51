"""Shared variables: a dict, a list or a text that the code on several devices reads and changes."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSequence
from typing import TYPE_CHECKING, Any, Literal, overload

from pycrdt import Array, Map, Text

from ainet.client.document_copy import DocumentCopy
from ainet.client.shared_values import checked_text, plain, typed
from ainet.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["dict", "list", "text"]


class Shared:
    """The common part of all kinds.

    Parameters
    ----------
    replica
        The document that it lives in.
    """

    def __init__(self, replica: DocumentCopy, root: Any) -> None:
        self._replica = replica
        self._root = root

    @property
    def connected(self) -> bool:
        """Whether the node hears of changes at once; otherwise it does when it is back."""
        return self._replica.connected

    def on_change(self, callback: Callable[[bool], object]) -> Callable[[], None]:
        """Call `callback` after every change, also inside of values; True says that it was made elsewhere.

        Changes made elsewhere are told in a thread of their own. Returns a function that takes the callback back.
        """
        with self._replica.lock:
            subscription = self._root.observe_deep(lambda *_: _call(callback, self._replica.is_remote))

        def unsubscribe() -> None:
            with self._replica.lock:
                self._root.unobserve(subscription)

        return unsubscribe

    def to_py(self) -> Any:
        """Return the value as plain Python."""
        with self._replica.lock:
            return typed(self._root.to_py())

    def __repr__(self) -> str:
        return f"<shared {self._replica.name}: {self.to_py()!r}>"


class SharedDict(Shared, MutableMapping[str, Any]):
    """A dict with texts as keys; values are what JSON can say."""

    def __getitem__(self, key: str) -> Any:
        with self._replica.lock:
            if key not in self:
                raise KeyError(key)
            value = self._root[key]
            return typed(value.to_py() if hasattr(value, "to_py") else value)

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        with self._replica.lock:
            if key not in self:
                raise KeyError(key)
            del self._root[key]

    def __contains__(self, key: object) -> bool:
        return key in list(self)

    def __iter__(self) -> Iterator[str]:
        with self._replica.lock:
            return iter(list(self._root.keys()))

    def __len__(self) -> int:
        with self._replica.lock:
            return len(self._root)

    def update(self, *others: Any, **given: Any) -> None:
        """Set several keys at once, or none when one of the values cannot be shared."""
        changes = {checked_text(key, "A key"): plain(one, _at(key)) for key, one in dict(*others, **given).items()}
        with self._replica.lock, self._replica.doc.transaction():
            for key, value in changes.items():
                self._root[key] = value


class SharedList(Shared, MutableSequence[Any]):
    """A list; values are what JSON can say."""

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return (self.to_py() or [])[index]

    def __setitem__(self, index: int | slice, value: Any) -> None:
        values = plain(value) if isinstance(index, slice) else [plain(value)]
        with self._replica.lock, self._replica.doc.transaction():
            size = len(self._root)
            if isinstance(index, slice):
                places = range(size)[index]
            else:
                places = range(range(size)[index], range(size)[index] + 1)
            if places.step == 1:
                self._cut(places)
                self._put(min(places.start, len(self._root)), values)
                return
            if len(places) != len(values):
                raise ValueError(f"attempt to assign {len(values)} values to a slice of {len(places)}")
            for place, one in zip(places, values, strict=True):
                self._cut(range(place, place + 1))
                self._put(place, [one])

    def __delitem__(self, index: int | slice) -> None:
        with self._replica.lock, self._replica.doc.transaction():
            if isinstance(index, slice):
                for place in sorted(range(len(self._root))[index], reverse=True):
                    self._cut(range(place, place + 1))
            else:
                place = range(len(self._root))[index]
                self._cut(range(place, place + 1))

    def __len__(self) -> int:
        with self._replica.lock:
            return len(self._root)

    def insert(self, index: int, value: Any) -> None:
        """Insert a value before the one at `index`."""
        found = plain(value)
        with self._replica.lock:
            size = len(self._root)
            self._root.insert(min(max(index + size if index < 0 else index, 0), size), found)

    def extend(self, values: Iterable[Any]) -> None:
        """Add several values at the end at once, or none when one of them cannot be shared."""
        found = plain(values)
        with self._replica.lock, self._replica.doc.transaction():
            self._put(len(self._root), found)

    def _cut(self, places: range) -> None:
        if len(places):
            del self._root[places.start : places.stop]

    def _put(self, place: int, values: list[Any]) -> None:
        for n, value in enumerate(values):
            self._root.insert(place + n, value)


class SharedText(Shared):
    """A text; edits of several devices at different places all remain."""

    def __str__(self) -> str:
        with self._replica.lock:
            return str(self._root)

    def __len__(self) -> int:
        return len(str(self))

    def insert(self, index: int, text: str) -> None:
        """Insert `text` before the character at `index`."""
        text = checked_text(text)
        with self._replica.lock:
            self._root.insert(_bytes_before(str(self._root), index), text)

    def append(self, text: str) -> None:
        """Add `text` at the end."""
        text = checked_text(text)
        with self._replica.lock:
            self._root += text

    def delete(self, start: int, stop: int) -> None:
        """Remove the characters from `start` to before `stop`."""
        with self._replica.lock:
            now = str(self._root)
            begin, end, _ = slice(start, stop).indices(len(now))
            if begin < end:
                del self._root[_bytes_before(now, begin) : _bytes_before(now, end)]


def _at(key: object) -> str:
    return f"The value of {str(key)[:40]!r}"


def _bytes_before(text: str, index: int) -> int:
    """Return how many bytes of UTF-8, in which pycrdt counts, precede a character; beyond an end is that end."""
    return len(text[:index].encode())


_KINDS: dict[str, tuple[type[Any], type[Shared]]] = {
    "dict": (Map, SharedDict),
    "list": (Array, SharedList),
    "text": (Text, SharedText),
}
_replicas: dict[tuple[Path, str], DocumentCopy] = {}
_opening = threading.Lock()


def open_shared(data_dir: Path, name: str, kind: Kind) -> Any:
    """Return the shared variable with this name; see `ainet.shared`."""
    if kind not in _KINDS:
        raise UsageError(f"kind is {kind!r}; it must be 'dict', 'list' or 'text'.")
    with _opening:
        key = (data_dir, name)
        if key not in _replicas or _replicas[key].ended:
            _replicas[key] = DocumentCopy(data_dir, f"shared/{name}")
        replica = _replicas[key]
    root, shared = _KINDS[kind]
    with replica.lock:
        return shared(replica, replica.doc.get(kind, type=root))


def close_all() -> None:
    """Stop keeping every shared variable of this process in step."""
    with _opening:
        while _replicas:
            _replicas.popitem()[1].close()


def _call(callback: Callable[[bool], object], elsewhere: bool) -> None:
    """Call the user's `callback`; its mistakes are shown, and must not end the exchange of changes."""
    try:
        callback(elsewhere)
    except Exception:
        traceback.print_exc()
