"""Retrieval: how often the right passage is found, cited, and what that costs.

Questions with known answers are made from what others wrote (`judged.py`): docstrings whose entry in Python's manual
is looked for, titles of its FAQ, rare terms, and descriptions of functions whose callers are looked for. The weights of
the ranking were chosen with another sample of the docstrings and terms than the one shown. Beside ainet stand each
ranking by itself and LanceDB's own hybrid search.

    python benchmarks/context.py [quality] [relations] [code] [citations] [costs] [--better MODEL.gguf]

Needs the manual in HTML (Debian: `apt install python3.11-doc`) for quality and citations.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import lancedb
import msgspec
import numpy as np
from judged import MANUAL, Question, described, docstrings, frequently_asked, library, manual, rare_terms, without
from lancedb.rerankers import RRFReranker

from ainet.context.citations import Citations, compared
from ainet.context.retriever import DEPTH, Retriever
from ainet.context.update import Update
from ainet.errors import UsageError
from ainet.passages.parse import parse
from ainet.storage.hybrid import HybridStorage
from ainet.storage.question import Stemmer
from ainet.storage.records import Fingerprint, Found, Passage
from ainet.vectors.gguf_model import GGUFModel
from ainet.vectors.word_llama import WordLlama

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ainet.vectors.model import EmbeddingModel

    Ranking = Callable[[str], list[int]]

RESULTS = Path(__file__).parent / "results" / "context.json"
PARTS = ("quality", "relations", "code", "citations", "costs")
#: Parts that need the manual.
OF_MANUAL = ("quality", "citations")
#: Questions of a kind, at most.
MOST = 600
_DOCSTRING = re.compile(r"(\"\"\"|''')(?:.|\n)*?\1")


class Known:
    """Passages in a storage, with their vectors in memory.

    Parameters
    ----------
    folder
        Where the storage lies.
    pages
        The passages, by path.
    """

    def __init__(self, folder: Path, pages: dict[str, list[Passage]]) -> None:
        self.storage = HybridStorage(folder)
        number = self.storage.add_folder("/known").id
        for path, passages in pages.items():
            self.storage.commit(
                self.storage.stage(number, path, Fingerprint(1, 1, path.encode()), parser="1", passages=passages)
            )
        index = self.storage.open_index("0" * 64, "all", 1)
        waiting = self.storage.next_unembedded(index.id, 10**9)
        self.texts = {one.id: one.text for one in waiting}
        self.ids = np.array(list(self.texts))
        found = self.storage.passages(list(self.texts))
        self.places = {one.id: (one.path, one.passage.cell) for one in found}
        self.names = {one.id: (one.path, one.passage.name) for one in found}
        self._vectors: dict[str, Any] = {}

    def near(self, model: EmbeddingModel, n: int = DEPTH) -> Callable[[str], list[Found]]:
        """Return the search by the vectors of a model."""
        if model.name not in self._vectors:
            begun = time.perf_counter()
            self._vectors[model.name] = model.passages(list(self.texts.values()))
            seconds = time.perf_counter() - begun
            print(f"  {model.name}: {len(self.texts) / seconds:.0f} passages/s", file=sys.stderr)
        vectors = self._vectors[model.name]

        def search(question: str) -> list[Found]:
            similar = vectors @ model.question(question)
            return [Found(int(self.ids[i]), float(similar[i])) for i in np.argsort(-similar)[:n]]

        return search

    def lance(self, folder: Path, model: EmbeddingModel) -> Ranking:
        """Return LanceDB's own hybrid search: its full text search and vectors, fused by its RRF."""
        self.near(model)
        rows = [
            {"id": int(number), "text": self.texts[int(number)], "vector": vector}
            for number, vector in zip(self.ids, self._vectors[model.name], strict=True)
        ]
        table = lancedb.connect(str(folder)).create_table("all", rows)
        table.create_fts_index("text", stem=True, remove_stop_words=True, language="English")
        reranker = RRFReranker()

        def search(question: str) -> list[int]:
            query: Any = table.search(query_type="hybrid").vector(model.question(question)).text(question)
            return [int(row["id"]) for row in query.rerank(reranker).limit(20).to_list()]

        return search


def score(answers: frozenset[Any], ranked: Sequence[Any]) -> tuple[float, float]:
    """Return nDCG@10 and recall@10."""
    places = list(dict.fromkeys(ranked))[:10]
    gains = [place in answers for place in places]
    ideal = sum(1 / math.log2(i + 2) for i in range(min(10, len(answers))))
    return sum(gain / math.log2(i + 2) for i, gain in enumerate(gains)) / ideal, sum(gains) / len(answers)


def judge(known: Known, sets: dict[str, list[Question]], ways: dict[str, Ranking]) -> dict[str, Any]:
    """Return and print how each way does on each set."""
    found: dict[str, Any] = {}
    print(f"  {'':24}" + "".join(f"{name:>24}" for name in sets))
    for way, rank in ways.items():
        found[way] = {}
        for name, questions in sets.items():
            scores = [score(one.answers, [known.places[number] for number in rank(one.text)]) for one in questions]
            ndcg, recall = np.mean(scores, axis=0)
            found[way][name] = {"ndcg": round(float(ndcg), 3), "recall": round(float(recall), 3)}
        cells = "".join(f"{one['ndcg']:>17.3f}/{one['recall']:.3f} " for one in found[way].values())
        print(f"  {way:24}{cells}")
    return found


def quality(work: Path, better: GGUFModel | None) -> dict[str, Any]:
    """Find entries of the manual, answers of the FAQ, and rare terms."""
    pages = manual()
    known = Known(work / "manual", pages)
    chosen_with = {one.text for one in [*described(pages, MOST), *rare_terms(pages, 300)]}
    sets = {
        "docstring → entry": _others(described(pages, 10**6), chosen_with, MOST),
        "FAQ title → answer": frequently_asked(pages),
        "rare term": _others(rare_terms(pages, 10**6), chosen_with, 300),
    }
    sizes = ", ".join(f"{len(questions)} {name}" for name, questions in sets.items())
    print(f"\nThe manual: {len(known.ids)} passages; {sizes}. nDCG@10/recall@10:")
    static, retriever = known.near(word_llama := WordLlama()), Retriever(known.storage)
    ways: dict[str, Ranking] = {
        "words": lambda text: [one.id for one in known.storage.search(text, 20)],
        word_llama.name: lambda text: [one.id for one in static(text)],
        "LanceDB hybrid": known.lance(work / "lance", word_llama),
        "ainet, static": lambda text: [one.passage.id for one in retriever.find(text, 20, vectors=static(text))],
    }
    if better is not None:
        near, second = known.near(better), Retriever(known.storage, is_static=False)
        ways[better.name] = lambda text: [one.id for one in near(text)]
        ways[f"ainet, {better.name}"] = lambda text: [
            one.passage.id for one in second.find(text, 20, vectors=near(text))
        ]
    return judge(known, sets, ways)


def _others(questions: list[Question], without_these: set[str], n: int) -> list[Question]:
    rest = [one for one in questions if one.text not in without_these]
    return random.Random(2).sample(rest, min(n, len(rest)))


def relations(work: Path, better: GGUFModel | None) -> dict[str, Any]:
    """Find the callers of functions that are described."""
    known = Known(work / "library", {path: parse(path, data) for path, data in library().items()})
    defined = {f"{_module(path)}.{name}": number for number, (path, name) in known.names.items()}
    asked = []
    for name, sentence in docstrings():
        described_by = without(sentence, name)
        if name not in defined or len(described_by.split()) < 5:
            continue
        for definition in known.storage.relations.definitions([defined[name]])[:1]:
            certain = [one for one in known.storage.relations.mentions(definition, ("calls",)) if one.weight >= 0.7]
            callers = frozenset(one.passage for one in certain) - {defined[name]}
            if 1 <= len(callers) <= 10:
                asked.append((described_by, callers))
    asked = random.Random(3).sample(asked, 250)
    retriever = Retriever(known.storage)
    ways: dict[str, Ranking] = {
        "words": lambda text: [one.id for one in known.storage.search(text, 10)],
        "ainet": lambda text: [
            one.passage.id for one in retriever.find(f"who calls the function that {text[:1].lower()}{text[1:]}", 10)
        ],
    }
    print(f"\nCallers of what is described: {len(known.ids)} passages, {len(asked)} questions. nDCG@10/recall@10:")
    found = {}
    for way, rank in ways.items():
        ndcg, recall = np.mean([score(callers, rank(text)) for text, callers in asked], axis=0)
        found[way] = {"ndcg": round(float(ndcg), 3), "recall": round(float(recall), 3)}
        print(f"  {way:24}{ndcg:.3f}/{recall:.3f}")
    return found


def code(work: Path, better: GGUFModel | None) -> dict[str, Any]:
    """Find functions by their docstrings, which were taken out of them: with and without what is indexed besides."""
    pages = {}
    for path, data in library().items():
        pages[path] = [_bare(one) for one in parse(path, data)]
    print("\nFunctions by descriptions that they do not have. MRR/recall@10:")
    found = {}
    for with_header in (True, False):
        shown = pages if with_header else {path: [_unnamed(one) for one in some] for path, some in pages.items()}
        known = Known(work / f"code{with_header}", shown)
        real = _names_of(known, pages)
        there = set(real.values())
        asked = [(without(sentence, name), name) for name, sentence in docstrings() if name in there]
        asked = random.Random(4).sample([one for one in asked if len(one[0].split()) >= 4], 300)
        near, retriever = known.near(WordLlama()), Retriever(known.storage)
        ways: dict[str, Ranking] = {
            "words": lambda text, known=known: [one.id for one in known.storage.search(text, 20)],
            "ainet": lambda text, near=near, retriever=retriever: [
                one.passage.id for one in retriever.find(text, 20, vectors=near(text))
            ],
        }
        for way, rank in ways.items():
            ranks = [[real[number] for number in rank(text)] for text, _ in asked]
            mrr = statistics.mean(
                1 / (1 + some.index(name)) if name in some else 0.0
                for some, (_, name) in zip(ranks, asked, strict=True)
            )
            recall = statistics.mean(name in some[:10] for some, (_, name) in zip(ranks, asked, strict=True))
            label = f"{way}, {'with' if with_header else 'without'} path and name"
            found[label] = {"mrr": round(mrr, 3), "recall": round(recall, 3)}
            print(f"  {label:40}{mrr:.3f}/{recall:.3f}")
    return found


def _names_of(known: Known, pages: dict[str, list[Passage]]) -> dict[int, str]:
    """Return the names of the passages by their numbers, also where the storage was not told them."""
    by_path: dict[str, list[int]] = {}
    for number in sorted(known.ids.tolist()):
        by_path.setdefault(known.names[number][0], []).append(number)
    return {
        number: f"{_module(path)}.{one.name}"
        for path, some in pages.items()
        for number, one in zip(by_path.get(path, ()), some, strict=False)
    }


def _bare(one: Passage) -> Passage:
    if one.kind not in ("function", "class"):
        return one
    return msgspec.structs.replace(one, text=_DOCSTRING.sub("", one.text, count=1))


def _unnamed(one: Passage) -> Passage:
    return msgspec.structs.replace(one, name="", kind="text")


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def citations(work: Path, better: GGUFModel | None) -> dict[str, Any]:
    """Cite sentences that were copied, shortened, or written by others about the same; and with the source withheld."""
    pages = manual()
    known = Known(work / "cited", pages)
    by_place = {place: number for number, place in known.places.items()}
    stemmer, retriever, model = Stemmer(), Retriever(known.storage), WordLlama()
    citing = Citations(lambda term: known.storage.weights([term])[term], stemmer)
    counts: dict[str, list[int]] = {name: [0, 0, 0] for name in ("copied", "shortened", "by others", "withheld")}
    drawn = random.Random(5)
    for one in described(pages, 300):
        source = by_place[next(iter(one.answers))]
        others = [hit.passage.id for hit in retriever.find(one.text, 8) if hit.passage.id != source][:4]
        texts = [stored.passage.text for stored in known.storage.passages([source, *others])]
        order = list(range(len(texts)))
        drawn.shuffle(order)
        shuffled, place = [texts[i] for i in order], order.index(0)
        # Some sentences stand in several passages of the manual.
        said = [line for line in re.split(r"(?<=[.])\s+", texts[0]) if len(line.split()) >= 8]
        if not said:
            continue
        sentence = drawn.choice(said)
        words = sentence.split()
        short = " ".join(word for i, word in enumerate(words) if i % 5 != 4)
        for name, text in (("copied", sentence), ("shortened", short), ("by others", one.text)):
            right = shuffled[place] if name == "by others" else sentence
            _count(counts[name], citing, model, text, shuffled, source=right)
        _count(counts["withheld"], citing, model, one.text, texts[1:], source=None)
    stemmer.close()
    print("\nCitations among five passages: sentences that are cited, and of these rightly.")
    found = {}
    for name, (sentences, cited, right) in counts.items():
        found[name] = {"cited": round(cited / sentences, 3), "right": round(right / max(cited, 1), 3)}
        print(f"  {name:24}{cited / sentences:.3f} {right / max(cited, 1):.3f}  of {sentences}")
    return found


def _count(
    counts: list[int], citing: Citations, model: WordLlama, text: str, passages: list[str], *, source: str | None
) -> None:
    texts, others = compared(text, passages)
    similar = (model.passages(texts) @ model.passages(others).T).tolist()
    for one in citing.cite(text, passages, similar=similar):
        counts[0] += 1
        counts[1] += one.passage is not None
        counts[2] += one.passage is not None and source is not None and source in passages[one.passage]


def costs(work: Path, better: GGUFModel | None) -> dict[str, Any]:
    """Take in files, look through them again, and ask at growing sizes."""
    print("\nCosts, one process:")
    found: dict[str, Any] = {}
    sources = work / "sources"
    texts = list(library().items())
    for copy in range(-(-10_000 // len(texts))):
        for path, data in texts[: 10_000 - copy * len(texts)]:
            target = sources / str(copy) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data if copy == 0 else b"# %d\n" % copy)
    storage = HybridStorage(work / "costs")
    folder = storage.add_folder(str(sources))
    model = WordLlama()
    begun = time.process_time()
    Update(storage, folder, parser=lambda _: "1", parse=_parse_all).run()
    index = storage.open_index(model.hash, model.name, model.dimensions)
    while passages := storage.next_unembedded(index.id, 256):
        model.passages([one.text for one in passages])
        storage.note_embedded(index.id, [one.id for one in passages])
    rate = storage.count() / (time.process_time() - begun)
    begun = time.perf_counter()
    updated = Update(storage, folder, parser=lambda _: "1", parse=_parse_all).run()
    again = time.perf_counter() - begun
    assert updated.seen > 9000
    print(f"  file to found {rate:.0f} passages/s; {updated.seen} unchanged files looked through in {again:.2f} s")
    found |= {"passages_per_s": round(rate), "unchanged_s": round(again, 2), "read_again": updated.read}
    storage.close()
    for size in (10_000, 100_000):
        found[f"find_{size}"] = _times(work / f"size{size}", texts, size)
    return found


def _parse_all(files: Sequence[tuple[str, bytes]]) -> list[list[Passage] | UsageError]:
    found: list[list[Passage] | UsageError] = []
    for path, data in files:
        try:
            found.append(parse(path, data))
        except UsageError as exc:
            found.append(exc)
    return found


def _times(folder: Path, texts: list[tuple[str, bytes]], size: int) -> dict[str, Any]:
    storage, made = HybridStorage(folder), 0
    number, characters = storage.add_folder("/f").id, 0
    for copy in range(100):
        for path, data in texts:
            passages = parse(path, data)
            if copy:  # other words, so that the index is as varied as that of other texts
                passages = [msgspec.structs.replace(one, text=_varied(one.text, copy)) for one in passages]
            storage.commit(
                storage.stage(number, f"{copy}/{path}", Fingerprint(1, 1, b""), parser="1", passages=passages)
            )
            made += len(passages)
            characters += sum(len(one.text) for one in passages)
            if made >= size:
                break
        if made >= size:
            break
    storage.scrub()
    retriever, asked = Retriever(storage), [sentence for _, sentence in docstrings()]
    asked = random.Random(6).sample(asked, 200)
    times = []
    for question in asked:
        begun = time.perf_counter()
        retriever.find(question, 10)
        times.append(1000 * (time.perf_counter() - begun))
    disk = sum(path.stat().st_size for path in folder.iterdir())
    p50, p95 = float(np.median(times)), float(np.quantile(times, 0.95))
    print(f"  {made} passages: find p50 {p50:.1f}, p95 {p95:.1f} ms; disk {disk / characters:.1f} × the text")
    storage.close()
    return {"p50_ms": round(p50, 1), "p95_ms": round(p95, 1), "disk_by_text": round(disk / characters, 2)}


def _varied(text: str, copy: int) -> str:
    def vary(match: re.Match[str]) -> str:
        return match[1] if crc32(f"{match[1]}{copy}".encode()) % 3 else f"{match[1]}{copy}"

    return re.sub(r"\b([a-z]{6,})\b", vary, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--better", type=Path, help="GGUF file of an embedding model to compare with, too")
    options = parser.parse_args()
    better = GGUFModel(options.better) if options.better else None
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    work = Path(tempfile.mkdtemp(prefix="context-"))
    try:
        for part in options.parts:
            if part in OF_MANUAL and not MANUAL.exists():
                print(f"\n{part}: Python's manual is missing (Debian: apt install python3.11-doc).")
                continue
            results[part] = globals()[part](work, better)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
