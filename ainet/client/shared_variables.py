"""Shared variables: a dict, a list or a text that the code on several devices reads and changes."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSequence
from typing import TYPE_CHECKING, Any, Literal, overload

from pycrdt import Array, Map, Text

from ainet.client.document_copy import DocumentCopy
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
            return self._root.to_py()

    def __repr__(self) -> str:
        return f"<shared {self._replica.name}: {self.to_py()!r}>"


class SharedDict(Shared, MutableMapping[str, Any]):
    """A dict with texts as keys; values are what JSON can say."""

    def __getitem__(self, key: str) -> Any:
        with self._replica.lock:
            value = self._root[key]
            return value.to_py() if hasattr(value, "to_py") else value

    def __setitem__(self, key: str, value: Any) -> None:
        with self._replica.lock:
            self._root[key] = _plain(value)

    def __delitem__(self, key: str) -> None:
        with self._replica.lock:
            del self._root[key]

    def __iter__(self) -> Iterator[str]:
        with self._replica.lock:
            return iter(list(self._root.keys()))

    def __len__(self) -> int:
        with self._replica.lock:
            return len(self._root)


class SharedList(Shared, MutableSequence[Any]):
    """A list; values are what JSON can say."""

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return (self.to_py() or [])[index]

    def __setitem__(self, index: int | slice, value: Any) -> None:
        with self._replica.lock, self._replica.doc.transaction():
            if isinstance(index, slice):
                self._root[index] = [_plain(one) for one in value]
            else:
                at = range(len(self._root))[index]
                del self._root[at]
                self._root.insert(at, _plain(value))

    def __delitem__(self, index: int | slice) -> None:
        with self._replica.lock:
            del self._root[index if isinstance(index, slice) else range(len(self._root))[index]]

    def __len__(self) -> int:
        with self._replica.lock:
            return len(self._root)

    def insert(self, index: int, value: Any) -> None:
        """Insert a value before the one at `index`."""
        with self._replica.lock:
            size = len(self._root)
            self._root.insert(min(max(index + size if index < 0 else index, 0), size), _plain(value))


class SharedText(Shared):
    """A text; edits of several devices at different places all remain."""

    def __str__(self) -> str:
        with self._replica.lock:
            return str(self._root)

    def __len__(self) -> int:
        return len(str(self))

    def insert(self, index: int, text: str) -> None:
        """Insert `text` before the character at `index`."""
        with self._replica.lock:
            self._root.insert(index, text)

    def append(self, text: str) -> None:
        """Add `text` at the end."""
        with self._replica.lock:
            self._root += text

    def delete(self, start: int, stop: int) -> None:
        """Remove the characters from `start` to before `stop`."""
        with self._replica.lock:
            del self._root[start:stop]


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


def _plain(value: Any) -> Any:
    """Return a value as plain JSON-like Python; raises `UsageError` for what cannot be shared."""
    if isinstance(value, Shared):
        value = value.to_py()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes | dict):
        return [_plain(one) for one in value]
    raise UsageError(
        f"A {type(value).__name__} cannot be shared: use numbers, texts, lists, and dicts with texts as keys."
    )
