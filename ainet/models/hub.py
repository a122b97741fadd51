"""Models from the Hugging Face Hub: ``hf:org/repo/file.gguf``.

`huggingface_hub` says where a file is, what it must contain and who we are; the bytes are taken here, because its own
download throws a half-finished file away when the process ends.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ainet.errors import AinetError, ModelError, NotEnough, NotFound, PeerUnreachable, UsageError
from ainet.models.gguf import files_of
from ainet.models.part_writer import disk_full, sync_folder
from ainet.units import show_bytes

if TYPE_CHECKING:
    from ainet.models.tensors import Progress

PREFIX = "hf:"
#: Tries in a row that bring no byte, and the pause between two tries (s).
TRIES = 4
PAUSE = 0.5
#: Seconds without a byte after which a connection is given up.
TIMEOUT = 20
#: Seconds between two reports of progress.
REPORT_SECONDS = 0.1
CHUNK = 1 << 20
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)/([\w./ +-]+\.gguf)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubFile(NamedTuple):
    """A file of a repository, such as ``Qwen/Qwen3-0.6B-GGUF`` and ``Qwen3-0.6B-Q8_0.gguf``."""

    repo: str
    file: str

    @classmethod
    def parse(cls, name: str) -> HubFile:
        """Take ``hf:org/repo/file.gguf`` apart.

        Raises
        ------
        UsageError
            If it is not such a name.
        """
        found = _NAME.fullmatch(name)
        if found is None or any(part in ("", ".", "..") for part in (found[1] + "/" + found[2]).split("/")):
            raise UsageError(
                f"{name!r} does not name a file of the Hub. Write hf:ORG/REPO/FILE.gguf, as its page shows them."
            )
        return cls(found[1], found[2])


class Hub:
    """Fetches model files and keeps them.

    Parameters
    ----------
    folder
        Files are kept in ``folder/ORG/REPO/``.
    endpoint
        Address of the Hub, by default the one that `huggingface_hub` uses (``HF_ENDPOINT``).
    pause
        Seconds before another try.
    """

    def __init__(self, folder: Path, *, endpoint: str | None = None, pause: float = PAUSE) -> None:
        self.folder = folder
        self._pause = pause
        self._endpoint = endpoint
        self._fetching = threading.Lock()

    def path(self, wanted: HubFile) -> Path:
        """Return where the file is kept once it is fetched."""
        return self.folder / wanted.repo / wanted.file

    def find(self, wanted: HubFile) -> Path | None:
        """Return the file, with the others of its model, if it is here or in the Hub's own cache."""
        cached = cache_folder() / f"models--{wanted.repo.replace('/', '--')}" / "snapshots"
        for path in (self.path(wanted), *(snapshot / wanted.file for snapshot in newest_first(cached))):
            if all(part.is_file() for part in files_of(path)):
                return path
        return None

    def fetch(self, name: str, *, progress: Progress | None = None) -> Path:
        """Return the path of a file, which is fetched unless it is here; of a model in several files, the first.

        Parameters
        ----------
        name
            ``hf:ORG/REPO/FILE.gguf``.
        progress
            Called with the bytes that are there and the bytes in all, of each file.

        Raises
        ------
        NotFound
            If the Hub does not have it, or not for us.
        PeerUnreachable
            If the Hub does not answer; what arrived is kept, and the next call goes on from there.
        ModelError
            If what arrived is not what the Hub announced.
        NotEnough
            If the disk does not suffice.
        """
        wanted = HubFile.parse(name)
        with self._fetching:
            found = self.find(wanted)
            if found is None:
                for part in files_of(self.path(wanted)):
                    self._fetch(HubFile(wanted.repo, part.relative_to(self.folder / wanted.repo).as_posix()), progress)
            return found or self.path(wanted)

    def _fetch(self, wanted: HubFile, progress: Progress | None) -> None:
        target = self.path(wanted)
        if target.exists():
            return
        found = self._look_up(wanted)
        if not found.etag or found.size is None:
            raise ModelError(f"The Hub does not say how large {wanted.file} is. Fetch it by hand and name its path.")
        # Another version of the file begins afresh.
        part = target.with_name(f"{target.name}.{hashlib.sha256(found.etag.encode()).hexdigest()[:16]}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        for other in target.parent.glob(f"{target.name}.*.part"):
            if other != part:
                other.unlink()
        _Download(wanted, self._url(wanted), part, found, progress, pause=self._pause).run()
        part.replace(target)
        sync_folder(target.parent)

    def _url(self, wanted: HubFile) -> str:
        from huggingface_hub import hf_hub_url

        return str(hf_hub_url(wanted.repo, wanted.file, endpoint=self._endpoint))

    def _look_up(self, wanted: HubFile) -> Any:
        from huggingface_hub import errors, get_hf_file_metadata

        where = f"{wanted.file} in {wanted.repo}"
        try:
            return get_hf_file_metadata(self._url(wanted), timeout=TIMEOUT, endpoint=self._endpoint)
        except errors.GatedRepoError as exc:
            raise NotFound(
                f"{where} is gated: accept its terms on the Hub's page of it, then log in with `hf auth login`."
            ) from exc
        except errors.RepositoryNotFoundError as exc:
            raise NotFound(
                f"The Hub has no repository {wanted.repo}, or it is private: then log in with `hf auth login`."
            ) from exc
        except errors.EntryNotFoundError as exc:
            raise NotFound(f"The Hub has no {where}. Its page lists the files that there are.") from exc
        except _transport_errors() as exc:
            raise _unreachable(where, exc, "Check the connection and ask again.") from exc
        except (ImportError, ValueError, UnicodeError) as exc:  # the HTTP library takes its proxy from the environment
            raise _unreachable(where, exc, _proxy_advice()) from exc


class _Download:
    """One file on its way in."""

    def __init__(
        self, wanted: HubFile, url: str, part: Path, announced: Any, progress: Progress | None, *, pause: float
    ) -> None:
        self._pause = pause
        self._wanted = wanted
        self._url = url
        self._part = part
        self._etag = str(announced.etag)
        self._size = int(announced.size)
        self._progress = progress
        self._hash = hashlib.sha256()
        self._position = 0
        self._reported = 0.0

    def run(self) -> None:
        """Take what is missing, check the whole, and leave it in the part file."""
        with os.fdopen(os.open(self._part, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as file:
            there = os.fstat(file.fileno()).st_size
            if there > self._size:
                file.truncate(0)
                there = 0
            while self._position < there and (data := file.read(min(CHUNK, there - self._position))):
                self._hash.update(data)
                self._position += len(data)
            self._check_room()
            self._report()
            tries = TRIES
            while self._position < self._size:
                before = self._position
                try:
                    self._receive(file)
                except _transport_errors() as exc:
                    tries = TRIES if self._position > before else tries - 1
                    if not tries:
                        kept = f"{show_bytes(self._position)} of {show_bytes(self._size)} are kept"
                        raise _unreachable(self._wanted.file, exc, f"{kept}; ask again to go on.") from exc
                    time.sleep(self._pause)
            os.fsync(file.fileno())
        # Large files are named by the SHA-256 of their content.
        if _SHA256.fullmatch(self._etag) and self._hash.hexdigest() != self._etag:
            self._part.unlink()
            raise ModelError(
                f"What arrived for {self._wanted.file} is not what the Hub announced. It was thrown away; ask again."
            )

    def _receive(self, file: Any) -> None:
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        with get_session().stream(
            "GET", self._url, headers=headers, follow_redirects=True, timeout=TIMEOUT
        ) as response:
            hf_raise_for_status(response)
            if self._position and response.status_code != 206:  # the server knows no ranges
                file.seek(0)
                file.truncate()
                self._hash, self._position = hashlib.sha256(), 0
            for data in response.iter_bytes():
                if self._position + len(data) > self._size:
                    self._part.unlink()
                    raise ModelError(
                        f"More bytes arrived for {self._wanted.file} than the Hub announced. They were thrown away."
                    )
                self._append(file, data)
                self._report()

    def _append(self, file: Any, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError as exc:
            self._part.unlink(missing_ok=True)
            raise disk_full(exc, self._wanted.file, self._part.parent) from exc
        self._hash.update(data)
        self._position += len(data)

    def _check_room(self) -> None:
        needed, free = self._size - self._position, shutil.disk_usage(self._part.parent).free
        if needed > free:
            if not self._position:
                self._part.unlink()
            raise NotEnough(
                f"{self._wanted.file} needs {show_bytes(needed)} more, but {self._part.parent} has "
                f"{show_bytes(free)} free. Free some space and ask again.",
                needed=needed,
                free=free,
            )

    def _report(self) -> None:
        now = time.monotonic()
        if self._progress is not None and (now - self._reported > REPORT_SECONDS or self._position == self._size):
            self._reported = now
            self._progress(self._position, self._size)


def cache_folder() -> Path:
    """Return the cache of `huggingface_hub`, which need not be imported for that."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    home = Path(os.environ.get("HF_HOME") or cache).expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def newest_first(folder: Path) -> list[Path]:
    """Return what is in a folder, latest modification first."""
    return sorted(folder.glob("*"), key=lambda path: path.lstat().st_mtime, reverse=True)


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return what a broken connection raises: the bases of the Hub's own error, whichever HTTP library it uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__


def _proxy_advice() -> str:
    named = sorted({name.upper() for name in os.environ if name.lower().endswith("_proxy") and os.environ[name]})
    return f"Is the proxy in {', '.join(named)} right?" if named else "Check the connection and ask again."


def _unreachable(what: str, exc: Exception, advice: str) -> AinetError:
    reason = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
    return PeerUnreachable(f"{what} cannot be fetched from the Hub: {reason}. {advice}")
