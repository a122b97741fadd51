"""Downloads against a server on this machine that answers as the Hugging Face Hub and its content network do."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from support.tiny_models import write_model

from ainet.config import AinetConfig
from ainet.errors import ModelError, NotEnough, NotFound, PeerUnreachable, UsageError
from ainet.models.catalog import ModelCatalog
from ainet.models.hub import Hub, HubFile
from ainet.models.tensors import TensorStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "hf:tiny/model-GGUF/model.gguf"


class Server:
    """The Hub on one port, its content network on another."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        #: What the content network really sends, where it differs.
        self.sent: dict[str, bytes] = {}
        #: Bytes after which each of the next answers breaks off.
        self.cuts: list[int] = []
        self.ranges = True
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.hub = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(self.answer_hub))
        self.cdn = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(self.answer_cdn))
        self.threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in (self.hub, self.cdn)]
        for thread in self.threads:
            thread.start()

    def address(self, server: ThreadingHTTPServer) -> str:
        return f"http://127.0.0.1:{server.server_port}"

    def close(self) -> None:
        for server, thread in zip((self.hub, self.cdn), self.threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()

    def ranges_asked(self) -> list[str | None]:
        return [wanted for where, method, wanted, _ in self.requests if (where, method) == ("cdn", "GET")]

    def _handler(self, answer: Any) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                answer(self)

            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def answer_hub(self, request: BaseHTTPRequestHandler) -> None:
        self.note("hub", request)
        repo, _, file = request.path.removeprefix("/").partition("/resolve/main/")
        if repo == "tiny/gated":
            return self.refuse(request, 403, "GatedRepo")
        if repo != "tiny/model-GGUF":
            return self.refuse(request, 401, "RepoNotFound")
        if file not in self.files:
            return self.refuse(request, 404, "EntryNotFound")
        data = self.files[file]
        request.send_response(302)
        request.send_header("Location", f"{self.address(self.cdn)}/{file}?signature=secret")
        request.send_header("X-Repo-Commit", "ab" * 20)
        request.send_header("X-Linked-Size", str(len(data)))
        request.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
        request.send_header("Content-Length", "0")
        request.end_headers()
        return None

    def answer_cdn(self, request: BaseHTTPRequestHandler) -> None:
        self.note("cdn", request)
        file = request.path.removeprefix("/").partition("?")[0]
        data = self.sent.get(file, self.files[file])
        wanted = request.headers.get("Range")
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        request.send_response(206 if begin else 200)
        request.send_header("Content-Length", str(len(data) - begin))
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data[begin : begin + self.cuts.pop(0)] if self.cuts else data[begin:])

    def refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def note(self, where: str, request: BaseHTTPRequestHandler) -> None:
        headers = request.headers
        self.requests.append((where, request.command, headers.get("Range"), headers.get("Authorization")))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    server = Server()
    server.files["model.gguf"] = write_model(tmp_path / "source.gguf", "llama", 2).read_bytes()
    yield server
    server.close()


@pytest.fixture
def hub(server: Server, tmp_path: Path) -> Hub:
    return Hub(tmp_path / "models", endpoint=server.address(server.hub), pause=0.01)


def kept(hub: Hub) -> list[Path]:
    return sorted(path for path in hub.folder.rglob("*") if path.is_file() or path.is_symlink())


def test_a_file_is_fetched_with_progress_and_only_once(server: Server, hub: Hub) -> None:
    progress: list[tuple[int, int]] = []
    path = hub.fetch(NAME, progress=lambda done, total: progress.append((done, total)))
    size = len(server.files["model.gguf"])
    assert path == hub.folder / "tiny" / "model-GGUF" / "model.gguf"
    assert path.read_bytes() == server.files["model.gguf"]
    assert progress[0] == (0, size)
    assert progress[-1] == (size, size)
    assert progress == sorted(progress)
    asked = len(server.requests)
    assert hub.fetch(NAME) == path
    assert len(server.requests) == asked
    assert kept(hub) == [path]


def test_a_connection_that_breaks_is_resumed_at_once(server: Server, hub: Hub) -> None:
    server.cuts = [30_000, 20_000]
    assert hub.fetch(NAME).read_bytes() == server.files["model.gguf"]
    assert server.ranges_asked() == [None, "bytes=30000-", "bytes=50000-"]


def test_what_arrived_is_kept_for_the_next_call(server: Server, hub: Hub, tmp_path: Path) -> None:
    server.cuts = [40_000, 0, 0, 0, 0]
    with pytest.raises(PeerUnreachable) as cut:
        hub.fetch(NAME)
    assert cut.value.message.startswith("model.gguf cannot be fetched from the Hub: ")
    assert "40 kB of " in cut.value.message
    assert cut.value.message.endswith(" are kept; ask again to go on.")
    assert [path.suffix for path in kept(hub)] == [".part"]
    server.requests.clear()
    progress: list[int] = []
    again = Hub(tmp_path / "models", endpoint=server.address(server.hub), pause=0.01)
    path = again.fetch(NAME, progress=lambda done, _total: progress.append(done))
    assert path.read_bytes() == server.files["model.gguf"]
    assert server.ranges_asked() == ["bytes=40000-"]
    assert progress[0] == 40_000
    assert kept(hub) == [path]


def test_a_server_without_ranges_is_read_from_the_beginning(server: Server, hub: Hub) -> None:
    server.ranges = False
    server.cuts = [30_000]
    assert hub.fetch(NAME).read_bytes() == server.files["model.gguf"]


def test_a_new_version_does_not_continue_the_old_one(server: Server, hub: Hub, tmp_path: Path) -> None:
    server.cuts = [40_000, 0, 0, 0, 0]
    with pytest.raises(PeerUnreachable):
        hub.fetch(NAME)
    server.files["model.gguf"] = write_model(tmp_path / "new.gguf", "llama", 2, seed=5).read_bytes()
    server.requests.clear()
    path = hub.fetch(NAME)
    assert path.read_bytes() == server.files["model.gguf"]
    assert server.ranges_asked() == [None]
    assert kept(hub) == [path]


def test_other_bytes_than_announced_are_thrown_away(server: Server, hub: Hub) -> None:
    data = server.files["model.gguf"]
    server.sent["model.gguf"] = data[:-1] + b"?"
    with pytest.raises(ModelError, match=r"What arrived for model\.gguf is not what the Hub announced"):
        hub.fetch(NAME)
    assert kept(hub) == []
    server.sent["model.gguf"] = data + b"?"
    with pytest.raises(ModelError, match=r"More bytes arrived for model\.gguf than the Hub announced"):
        hub.fetch(NAME)
    assert kept(hub) == []


def test_a_full_disk_is_said_in_words_and_leaves_nothing(server: Server, hub: Hub) -> None:
    server.cuts = [40_000, 0, 0, 0, 0]
    with pytest.raises(PeerUnreachable):
        hub.fetch(NAME)
    (part,) = kept(hub)
    part.unlink()
    part.symlink_to("/dev/full")  # a write to it fails as on a full disk
    with pytest.raises(NotEnough, match=r"The disk is full: model\.gguf could not be written to .*\. Free some space"):
        hub.fetch(NAME)
    assert kept(hub) == []


def test_a_file_larger_than_the_free_space_is_not_begun(server: Server, hub: Hub) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 60

    server.files["model.gguf"] = Huge(b"x")
    with pytest.raises(NotEnough, match=r"model\.gguf needs .* TB more, but .* has .* free\. Free some space"):
        hub.fetch(NAME)
    assert kept(hub) == []
    assert server.ranges_asked() == []


def test_what_the_hub_refuses_is_said_in_words(hub: Hub) -> None:
    with pytest.raises(NotFound, match=r"The Hub has no other\.gguf in tiny/model-GGUF\. Its page lists the files"):
        hub.fetch("hf:tiny/model-GGUF/other.gguf")
    with pytest.raises(NotFound, match=r"The Hub has no repository tiny/nothing, or it is private: then log in with"):
        hub.fetch("hf:tiny/nothing/model.gguf")
    with pytest.raises(NotFound, match=r"model\.gguf in tiny/gated is gated: accept its terms"):
        hub.fetch("hf:tiny/gated/model.gguf")
    assert kept(hub) == []


def test_a_hub_that_does_not_answer_is_said_in_words(server: Server, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        address = server.address(closed)
    with pytest.raises(
        PeerUnreachable, match=r"model\.gguf in tiny/model-GGUF cannot be fetched from the Hub: .*Check"
    ):
        Hub(tmp_path / "models", endpoint=address, pause=0.01).fetch(NAME)


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:tiny",
        "hf:tiny/model",
        "hf:tiny/model/x.bin",
        "hf:a/b/../../x.gguf",
        "hf:../b/x.gguf",
        "hf:a/b//x.gguf",
        "hf:a/b/x?y.gguf",
    ],
)
def test_a_name_that_is_none_is_refused(hub: Hub, name: str) -> None:
    with pytest.raises(UsageError, match=r"does not name a file of the Hub\. Write hf:ORG/REPO/FILE\.gguf"):
        hub.fetch(name)


def test_a_file_in_a_folder_has_a_name(hub: Hub) -> None:
    assert HubFile.parse("hf:a/b-c/Q4 K_M/x.gguf") == ("a/b-c", "Q4 K_M/x.gguf")
    assert hub.path(HubFile.parse("hf:a/b-c/Q4/x.gguf")) == hub.folder / "a/b-c/Q4/x.gguf"


def test_all_files_of_a_model_are_fetched(server: Server, hub: Hub) -> None:
    for index in (1, 2, 3):
        server.files[f"big-{index:05}-of-00003.gguf"] = bytes([index]) * 1000
    path = hub.fetch("hf:tiny/model-GGUF/big-00001-of-00003.gguf")
    assert path.name == "big-00001-of-00003.gguf"
    assert [file.read_bytes()[0] for file in kept(hub)] == [1, 2, 3]


def test_the_login_goes_to_the_hub_only(server: Server, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.fetch(NAME)
    assert {login for where, _, _, login in server.requests if where == "hub"} == {"Bearer hf_secret"}
    assert {login for where, _, _, login in server.requests if where == "cdn"} == {None}


def test_the_catalog_fetches_a_model_by_its_address(server: Server, hub: Hub, tmp_path: Path) -> None:
    config = AinetConfig(data_dir=str(tmp_path), discover_models=False)
    progress: list[tuple[int, int]] = []
    with TensorStore(tmp_path / "store") as store:
        catalog = ModelCatalog(config, store, hub=hub)
        assert catalog.resolve(NAME).where == "on the Hugging Face Hub"
        with pytest.raises(NotFound):
            catalog.known(NAME)  # members cannot make this device fetch anything
        assert server.requests == []
        manifest = catalog.manifest(NAME, progress=lambda done, total: progress.append((done, total)))
        assert (manifest.name, manifest.n_layers) == ("model", 2)
        assert progress
        assert [(entry.name, entry.error) for entry in catalog.list()] == [("model", None)]
        server.requests.clear()
        assert catalog.manifest(NAME).digest == catalog.manifest("model").digest == manifest.digest
        assert server.requests == []


def test_a_download_that_is_no_model_is_refused(server: Server, hub: Hub, tmp_path: Path) -> None:
    server.files["model.gguf"] = b"<html>not a model</html>"
    with TensorStore(tmp_path / "store") as store:
        catalog = ModelCatalog(AinetConfig(data_dir=str(tmp_path), discover_models=False), store, hub=hub)
        with pytest.raises(ModelError, match=r"model\.gguf is not a usable GGUF file\. It does not begin with 'GGUF'"):
            catalog.manifest(NAME)
        assert [entry.error is None for entry in catalog.list()] == [False]
