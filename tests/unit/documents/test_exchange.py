"""Documents between members: edits on all sides converge, whoever meets whom, and nothing is lost."""

from __future__ import annotations

import contextlib
import logging
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pycrdt import Array, Doc, Map, Text, merge_updates
from support.documents import PLAN, plan, says, sharing
from support.linked import raw
from support.swarms import devices, until

from ainet.documents import exchange as module
from ainet.documents.document import Document, Incomplete
from ainet.documents.exchange import SHARED, PushUpdate, Sizes
from ainet.documents.kinds import Kinds, MembersOnly
from ainet.documents.store import DocumentStore
from ainet.errors import Refused, UsageError


async def test_what_one_member_writes_all_read(tmp_path):
    async with devices(tmp_path, "desk", "phone", "tablet") as all_of, sharing(*all_of) as shares:
        plan(shares[1])["a"] = 1
        for documents in shares:
            await until(lambda documents=documents: says(documents) == {"a": 1})
        plan(shares[2])["b"] = 2
        del plan(shares[0])["a"]
        for documents in shares:
            await until(lambda documents=documents: says(documents) == {"b": 2})


async def test_edits_made_apart_merge_when_members_meet(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), sharing(desk, phone) as (one, other):
        plan(one)["before"] = 1
        await until(lambda: says(other) == {"before": 1})
        await phone.stop()
        await until(lambda: not desk.links.links())
        plan(one)["desk"] = 1
        plan(other)["phone"] = 1
        phone.open()
        other._links = phone.links
        for kind, handler in (
            (module.ListDocuments, other._list),
            (module.PullDocument, other._answer_pull),
            (module.PushUpdate, other._answer_push),
        ):
            phone.links.handle(kind, handler)
        phone.links.on_linked(other._linked)
        other._kinds = Kinds()
        other.register(SHARED)
        await phone.start()
        await phone.links.connect(desk.id)
        for documents in (one, other):
            await until(lambda documents=documents: says(documents) == {"before": 1, "desk": 1, "phone": 1})


async def test_a_change_that_is_too_long_to_be_pushed_is_asked_for(tmp_path):
    sizes = Sizes(push=2000, part=10_000)
    async with devices(tmp_path, "desk", "phone") as (desk, phone), sharing(desk, phone, sizes=sizes) as (one, other):
        await phone.links.connect(desk.id)
        text = random.Random(1).randbytes(40_000).hex()
        plan(one)["long"] = text
        await until(lambda: says(other) == {"long": text})


async def test_malformed_and_oversized_updates_leave_no_trace(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with devices(tmp_path, "desk", "phone") as (desk, phone), sharing(desk) as (documents,):
        link = await phone.links.connect(desk.id)
        for name, update in ((PLAN, b"\xff" * 40), (PLAN, b"\x01\x02\x03")):
            with pytest.raises(Refused, match="malformed"):
                await link.request(PushUpdate(name, update))
        for name in ("other", "shared/", "shared/a/b", "shared/" + "x" * 129, "shared/a\nb", "settings/x"):
            with pytest.raises(UsageError, match="cannot be the name"):
                await link.request(PushUpdate(name, b"\0\0"))
        assert documents.names() == [PLAN]
        assert documents.store.updates(PLAN) == []


async def test_there_is_a_limit_of_documents(tmp_path):
    sizes = Sizes(documents=3)
    async with devices(tmp_path, "desk", "phone") as (desk, phone), sharing(desk, sizes=sizes) as (documents,):
        link = await phone.links.connect(desk.id)
        for i in range(3):
            await link.request(PushUpdate(f"shared/{i}", b"\0\0"))
        with pytest.raises(Refused, match="3 shared documents already"):
            await link.request(PushUpdate("shared/4", b"\0\0"))
        assert len(documents.names()) == 3


async def test_nothing_is_taken_from_a_removed_member(tmp_path):
    async with raw(tmp_path) as (desk, phone, _), sharing(desk) as (documents,):
        desk.links.trust.remove(phone.name)
        await until(lambda: not desk.links.links())
        phone.open()
        await phone.start()
        with pytest.raises(Refused, match="removed"):
            await phone.links.connect(desk.id)
        assert documents.names() == []


async def test_a_refused_change_takes_no_other_with_it(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), sharing(desk, phone) as (one, other):
        await phone.links.connect(desk.id)

        class Closed(MembersOnly):
            def check_write(self, document, node):
                if node == desk.id:
                    raise Refused("Not this one.")

        one.register("closed/")
        other.register("closed/", Closed(phone.identity))
        one.open("closed/plan").doc.get("map", type=Map)["a"] = 1
        plan(one)["b"] = 2
        await until(lambda: says(other) == {"b": 2})


class Swarm(RuleBasedStateMachine):
    """Members that edit, are parted, restart, and exchange updates that are lost, doubled and reordered."""

    N = 3

    @initialize(data=st.data())
    def begin(self, data):
        import tempfile
        from pathlib import Path

        self.folder = tempfile.TemporaryDirectory()
        self.files = [Path(self.folder.name) / f"{i}.sqlite" for i in range(self.N)]
        self.stores = [DocumentStore(path) for path in self.files]
        self.waiting: list[tuple[int, bytes]] = []
        self.documents = [self._open(i) for i in range(self.N)]
        self.written: set[str] = set()

    def _open(self, i):
        def told(_document, update, origin):
            self.waiting += [(other, update) for other in range(self.N) if other not in (i, origin)]

        return Document(PLAN, self.stores[i], told)

    @rule(i=st.integers(0, 2), word=st.text("abc", min_size=1, max_size=5), position=st.integers(0, 50))
    def write(self, i, word, position):
        text = self.documents[i].doc.get("text", type=Text)
        text.insert(min(position, len(str(text))), word)
        mark = f"{len(self.written)}-{word}"
        self.documents[i].doc.get("marks", type=Array).append(mark)
        self.written.add(mark)

    @rule(i=st.integers(0, 2), count=st.integers(1, 10))
    def erase(self, i, count):
        text = self.documents[i].doc.get("text", type=Text)
        if str(text):
            del text[0 : min(count, len(str(text)))]

    @rule(choice=st.integers(0, 10_000), again=st.booleans())
    def deliver(self, choice, again):
        if self.waiting:
            k = choice % len(self.waiting)
            target, update = self.waiting[k] if again else self.waiting.pop(k)
            with contextlib.suppress(Incomplete):
                self.documents[target].apply(update, "somebody")

    @rule(choice=st.integers(0, 10_000))
    def lose(self, choice):
        if self.waiting:
            self.waiting.pop(choice % len(self.waiting))

    @rule(i=st.integers(0, 2), compact=st.booleans())
    def restart(self, i, compact):
        if compact:
            self.documents[i].compact()
        self.documents[i].close()
        self.stores[i].close()
        self.stores[i] = DocumentStore(self.files[i])
        self.documents[i] = self._open(i)

    @rule(one=st.integers(0, 2), other=st.integers(0, 2))
    def meet(self, one, other):
        for here, there in ((one, other), (other, one)):
            update = self.documents[there].missing(self.documents[here].state)
            self.documents[here].apply(update, there)
        if one != other:
            assert self._content(one) == self._content(other)

    @invariant()
    def nothing_is_made_up(self):
        if hasattr(self, "documents"):
            for i in range(self.N):
                assert set(self._content(i)[1]) <= self.written

    def teardown(self):
        if not hasattr(self, "documents"):
            return
        # Two rounds of meetings in a chain: the first and the last never meet.
        for one, other in ((0, 1), (1, 2), (0, 1)):
            self.meet(one, other)
        contents = [self._content(i) for i in range(self.N)]
        assert contents[0] == contents[1] == contents[2]
        assert set(contents[0][1]) == self.written  # no lost update
        for document, store in zip(self.documents, self.stores, strict=True):
            document.close()
            store.close()
        self.folder.cleanup()

    def _content(self, i):
        doc = self.documents[i].doc
        return str(doc.get("text", type=Text)), doc.get("marks", type=Array).to_py() or []


Swarm.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSwarm = Swarm.TestCase


def test_many_edits_keep_a_small_history(tmp_path):
    with contextlib.closing(DocumentStore(tmp_path / "documents.sqlite")) as store:
        document = Document(PLAN, store, lambda *_: None)
        source, updates = Doc(), []
        subscription = source.observe(lambda event: updates.append(event.update))
        numbers = source.get("map", type=Map)
        for i in range(5000):
            numbers[f"key{i % 20}"] = i
        for begin in range(0, len(updates), 10):
            document.apply(merge_updates(*updates[begin : begin + 10]), "phone")
            document.compact_if_due()
        source.unobserve(subscription)
        document.compact()
        assert document.doc.get("map", type=Map).to_py() == numbers.to_py()
        assert sum(map(len, store.updates(PLAN))) < 15 * 5000  # about 11 bytes for each value that a map forgot
        document.close()
