"""Files that are never read: what the owner ignores, what nobody wrote, and what is secret."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Files with patterns of what is left out, in the folder that they are in and below.
IGNORE_FILES = (".gitignore", ".ainetignore")
#: Folders that programs fill.
FOLDERS = frozenset(  # a list would take a page
    """
    .git .hg .svn .jj __pycache__ node_modules bower_components site-packages .venv venv .tox .nox .eggs .cache
    .mypy_cache .ruff_cache .pytest_cache .hypothesis .gradle .ipynb_checkpoints .idea .vscode .terraform .next
    .Trash $RECYCLE.BIN
    """.split()  # noqa: SIM905
)
#: Suffixes of files that hold no text, and of those that no person wrote.
SUFFIXES = frozenset(  # a list would take a page
    """
    .7z .a .aac .avi .bin .bmp .bz2 .class .dat .db .dll .dmg .doc .docx .dylib .exe .feather .flac .gguf .gif .gz
    .h5 .heic .icns .ico .iso .jar .jpeg .jpg .lock .m4a .mkv .mo .mov .mp3 .mp4 .npy .npz .o .odt .ogg .onnx .otf
    .parquet .pb .pdb .pickle .pkl .png .ppt .pptx .psd .pt .pth .pyc .pyd .rar .safetensors .so .sqlite .sqlite3
    .svg .tar .tgz .tif .tiff .ttf .wasm .wav .webm .webp .whl .woff .woff2 .xls .xlsx .xz .zip .zst
    """.split()  # noqa: SIM905
)
GENERATED = re.compile(
    r"(?:[.\-_]min\.(?:js|css|html)|\.(?:js|css)\.map|_pb2(?:_grpc)?\.pyi?|\.g\.dart)$|^package-lock\.json$"
)
#: Names of files that hold keys or passwords.
SECRET = re.compile(
    r"^\.env(?:\..*)?$|^\.(?:netrc|pgpass|npmrc|pypirc|htpasswd|git-credentials|dockercfg)$|^id_(?:rsa|dsa|ecdsa|ed25519)\b"
    r"|^(?:credentials|secrets?)(?:\.(?:json|ya?ml|toml|ini|txt))?$"
    r"|\.(?:pem|key|p12|pfx|jks|keystore|kdbx|gpg|asc|ppk|age|token)$",
    re.IGNORECASE,
)


class Rules:
    """The patterns of a folder and of those above it.

    Parameters
    ----------
    folder
        Whose ignore files are read.
    above
        The rules of the folder above.
    """

    def __init__(self, folder: Path, above: Rules | None = None) -> None:
        self._specs: Sequence[tuple[str, GitIgnoreSpec]] = above._specs if above is not None else ()
        for name in IGNORE_FILES:
            try:
                lines = (folder / name).read_text(errors="replace").splitlines()
            except OSError:
                continue
            self._specs = [*self._specs, (f"{folder}/", GitIgnoreSpec.from_lines(lines))]

    def ignore(self, path: str, *, is_folder: bool) -> bool:
        """Whether the owner's patterns leave out the file or folder at this path."""
        verdict = False
        for folder, spec in self._specs:  # the innermost one that says something decides
            found = spec.check_file(path.removeprefix(folder) + ("/" if is_folder else "")).include
            verdict = verdict if found is None else found
        return verdict


def why_left_out(name: str, *, is_folder: bool = False) -> str:
    """Return why a file or folder of this name is never read, in words; empty where it may be."""
    if is_folder:
        return "programs fill folders of this name" if name in FOLDERS else ""
    if SECRET.search(name):
        return "files of this name hold secrets"
    if GENERATED.search(name):
        return "it was generated"
    if PurePath(name).suffix.lower() in SUFFIXES:
        return "files of this kind hold no text"
    return ""
