"""Devices that tell each other what they have end with the same, whatever order things happen in."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.storing import fingerprint, write

from ainet.errors import NotFound, Refused
from ainet.storage.hybrid import HybridStorage
from ainet.storage.records import Passage, Relation

PLENTY, MANY = 1 << 40, 1000


def sign(_entry):
    return b"s" * 64


class Device:
    """A storage with a name, and what travels between two of them."""

    def __init__(self, folder, name):
        self.folder, self.name = folder / name, name
        self.storage = HybridStorage(self.folder)

    def named(self, origin):
        """The origin of an entry of this device's, as others know it; and the other way round."""
        return {"": self.name, self.name: ""}.get(origin, origin)

    def pull(self, other, most=MANY):
        """Ask another device for entries; whether there were any."""
        theirs = other.storage.replicas
        theirs.sign(sign)
        known = {self.named(origin): seq for origin, seq in self.storage.replicas.heads().items()}
        entries = [
            one for origin in theirs.heads() for one in theirs.since(origin, known.get(other.named(origin), 0), most)
        ]
        self.storage.replicas.adopt([_renamed(one, self.named(other.named(one.origin))) for one in entries])
        if most == MANY and self.storage.replicas.sums(other.name) != theirs.sums(""):
            theirs.meet_own([_renamed(one, "") for one in self.storage.replicas.since(other.name, 0, MANY)], 0)
            return True
        return bool(entries)

    def fetch(self, other, budget=PLENTY):
        """Ask another device for the documents that are missing here."""
        wanted, given_up = self.storage.replicas.plan(budget)
        self.storage.replicas.give_up(given_up)
        for entry in wanted:
            try:
                origin = other.named(self.named(entry.origin))
                salt, content = other.storage.replicas.read(origin, entry.item, entry.seq)
            except NotFound:
                continue
            self.storage.replicas.put(entry, salt, content)

    def known(self, of):
        """What is known of a device's files: their paths, and all that is in them."""
        found = {}
        for folder in self.storage.folders(self.named(of)):
            for path, source in self.storage.sources(folder.id).items():
                rows = self.storage._database.ask(
                    "SELECT passages.id FROM passages JOIN versions ON versions.id = version WHERE source = ?",
                    (source.id,),
                )
                numbers = [number for (number,) in rows]
                found[folder.path.removeprefix(f"{of}:"), path] = (
                    source.parser,
                    source.fingerprint.hash,
                    [(one.passage, one.dated) for one in self.storage.passages(numbers)],
                    sorted((one.kind, one.target) for one in _relations(self.storage, numbers)),
                )
        return found


def _renamed(entry, origin):
    return type(entry)(origin, entry.item, entry.seq, entry.is_gone, entry.hash, entry.size, entry.signature)


def _relations(storage, numbers):
    rows = storage._database.ask(
        "SELECT kind, target FROM relations WHERE passage IN (SELECT value FROM json_each(?))", (str(numbers),)
    )
    return [Relation(*row) for row in rows]


def settle(devices):
    """Have all ask each other until nothing is new."""
    for _ in range(10):
        pulled = [one.pull(other) for one in devices for other in devices if one is not other]
        if not any(pulled):
            break
    else:
        pytest.fail("The devices tell each other something new for ever.")
    for one in devices:
        for other in devices:
            if one is not other:
                one.fetch(other)


@pytest.fixture
def pair(tmp_path):
    devices = [Device(tmp_path, name) for name in ("ada", "eve")]
    yield devices
    for one in devices:
        assert one.storage.check() == []
        one.storage.close()


PATHS = ("a.txt", "b.txt", "c.txt")
#: What happens, and how often beside the other things.
ACTIONS = {"write": 6, "move": 3, "remove": 2, "label": 1, "pull": 6, "fetch": 6, "keep": 1, "restore": 1}


def steps(chosen, n):
    """What happens: to which device, and with what."""
    for action in chosen.choices(list(ACTIONS), ACTIONS.values(), k=n):
        number, path = chosen.randrange(2), chosen.choice(PATHS)
        if action == "pull":
            yield action, *chosen.sample(range(3), 2), chosen.randint(1, 3)
        elif action == "fetch":
            yield action, *chosen.sample(range(3), 2), chosen.choice((0, 250, PLENTY, PLENTY))
        elif action == "label":
            yield action, number, chosen.choice(("private", "swarm", "swarm")), None
        else:
            yield action, number, path, chosen.choice(PATHS) if action == "move" else chosen.randrange(10)


def step(devices, kept, one):
    action, number, what, amount = one
    device = devices[number]
    if action in ("pull", "fetch"):
        getattr(device, action)(devices[what], amount)
        return
    if action in ("keep", "restore"):
        backup = device.folder.with_suffix(".backup")
        if action == "keep":
            device.storage.scrub()
            shutil.copytree(device.folder, backup, dirs_exist_ok=True)
            kept.add(number)
        elif number in kept:
            device.storage.close()
            shutil.rmtree(device.folder)
            shutil.copytree(backup, device.folder)
            device.storage = HybridStorage(device.folder)
        return
    storage = device.storage
    labels = {folder.path: folder.label for folder in storage.folders()}
    folder = storage.add_folder("/home/ada", what if action == "label" else labels.get("/home/ada", "swarm")).id
    sources = storage.sources(folder)
    if action == "write":
        write(storage, folder, what, f"zebra{amount}\nof {what}")
    elif action == "move" and what in sources and amount not in sources:
        storage.move(sources[what].id, amount, 1)
    elif action == "remove" and what in sources:
        storage.remove(sources[what].id)


@given(seed=st.integers(0, 1 << 32))
@example(seed=366)  # of a restored device, others know less, and older, than it has
@example(seed=1_762_776_337)
@settings(max_examples=40, deadline=None)
def test_whatever_happens_all_devices_know_in_the_end_what_may_be_known(seed):
    with tempfile.TemporaryDirectory() as folder:
        devices = [Device(Path(folder), name) for name in ("ada", "eve", "bob")]
        kept = set()
        for one in steps(random.Random(seed), 40):
            step(devices, kept, one)
        settle(devices)
        settle(devices)  # who was restored from a backup hears of that first
        for one in devices:
            own = one.known(one.name)
            given_away = own if all(folder.label == "swarm" for folder in one.storage.folders()) else {}
            for other in devices:
                if other is not one:
                    assert other.known(one.name) == given_away
            assert one.storage.check() == []
        for one in devices:
            one.storage.close()


def test_a_document_travels_with_all_that_is_found_and_cited_by(pair):
    ada, eve = pair
    folder = ada.storage.add_folder("/home/ada").id
    passage = Passage(
        "def f(): g()", "function", "m.f", 3, 4, "cell7", 2, (Relation("calls", "m.g"), Relation("uses", "x"))
    )
    ada.storage.commit(ada.storage.stage(folder, "m.py", fingerprint("x"), parser="p1", passages=[passage]))
    settle(pair)
    (found,) = eve.storage.passages([one.id for one in eve.storage.search("f")])
    assert (found.folder, found.path, found.passage) == (
        "ada:/home/ada",
        "m.py",
        Passage("def f(): g()", "function", "m.f", 3, 4, "cell7", 2),
    )
    assert ada.known("ada") == eve.known("ada")
    assert eve.storage.folders() == []
    assert eve.storage.needs_vectors()


def test_nothing_else_than_what_was_signed_is_taken(pair):
    ada, eve = pair
    folder = ada.storage.add_folder("/home/ada").id
    write(ada.storage, folder, "a.txt", "apples")
    eve.pull(ada)
    (entry,), _ = eve.storage.replicas.plan(PLENTY)
    salt, content = ada.storage.replicas.read("", entry.item, entry.seq)
    for wrong in ((b"x" * 16, content), (salt, content.replace(b"apples", b"pears!")), (salt, content + b"x")):
        with pytest.raises(Refused, match="not the one that its owner signed"):
            eve.storage.replicas.put(entry, *wrong)
    write(ada.storage, folder, "a.txt", "plums")
    with pytest.raises(NotFound):
        ada.storage.replicas.read("", entry.item, entry.seq)
    eve.pull(ada)
    assert not eve.storage.replicas.put(entry, salt, content)
    assert eve.known("ada") == {}


def test_an_entry_tells_nothing_to_whoever_knows_the_document(pair):
    ada, eve = pair
    for one in pair:
        write(one.storage, one.storage.add_folder("/home/ada").id, "a.txt", "the same words")
        one.storage.replicas.sign(sign)
    (mine,) = ada.storage.replicas.since("", 0, 10)
    (theirs,) = eve.storage.replicas.since("", 0, 10)
    assert mine.hash != theirs.hash
    assert mine.item != theirs.item


def test_the_newest_of_each_device_are_kept_where_not_all_fit(tmp_path):
    devices = [Device(tmp_path, name) for name in ("ada", "eve", "bob")]
    ada, eve, bob = devices
    for one, n in ((ada, 10), (eve, 2)):
        folder = one.storage.add_folder("/home/ada").id
        for number in range(n):
            write(one.storage, folder, f"{number}.txt", f"zebra {number}")
        bob.pull(one)
    (size,) = {entry.size for entry in bob.storage.replicas.plan(PLENTY)[0]}
    for other in (ada, eve):
        bob.fetch(other, 5 * size)
    assert sorted(path for _, path in bob.known("ada")) == ["7.txt", "8.txt", "9.txt"]
    assert sorted(path for _, path in bob.known("eve")) == ["0.txt", "1.txt"]
    write(ada.storage, ada.storage.folder("/home/ada").id, "0.txt", "zebra 0")
    bob.pull(ada)
    bob.fetch(ada, 5 * size)
    assert sorted(path for _, path in bob.known("ada")) == ["0.txt", "8.txt", "9.txt"]
    kept = bob.storage.replicas.kept()
    assert (kept["ada"].all, kept["ada"].whole, kept["ada"].passages) == (10, 3, 3)
    bob.fetch(ada, 0)
    assert bob.known("ada") == bob.known("eve") == {}
    for one in devices:
        assert one.storage.check() == []
        one.storage.close()


def test_of_a_device_that_is_no_member_any_more_nothing_stays(pair):
    ada, eve = pair
    write(ada.storage, ada.storage.add_folder("/home/ada").id, "a.txt", "apples")
    settle(pair)
    assert eve.storage.replicas.keep_only({"ada"}) is False
    assert eve.storage.replicas.keep_only(set()) is True
    assert eve.known("ada") == {}
    assert eve.storage.replicas.heads() == {}
    ada.storage.replicas.withdraw()
    assert [folder.label for folder in ada.storage.folders()] == ["private"]
    eve.pull(ada)
    assert eve.storage.replicas.plan(PLENTY) == ([], [])


def test_a_folder_that_is_added_again_is_not_sent_again(pair):
    ada, eve = pair
    write(ada.storage, ada.storage.add_folder("/home/ada").id, "a.txt", "apples")
    settle(pair)
    ada.storage.add_folder("/home/ada", "shared", ["bob"])
    assert not eve.pull(ada)
    assert ada.storage.audience(ada.storage.folder("/home/ada").id) == ["bob"]


def test_a_passage_has_one_place_on_all_devices(pair):
    ada, eve = pair
    folder = ada.storage.add_folder("/notes").id
    write(eve.storage, eve.storage.add_folder("/else").id, "own.txt", "something\nelse")
    write(ada.storage, folder, "a.txt", "one\ntwo\nthree")
    write(ada.storage, ada.storage.add_folder("/diary", "private").id, "b.txt", "secret")
    settle(pair)
    places, texts = {}, {}
    for device in pair:
        index = device.storage.open_index("m" * 64, "model", 4).id
        own = device.storage.next_unembedded(index, 10)
        device.storage.note_embedded(index, [one.id for one in own])
        passages = [*own, *device.storage.next_unembedded(index, 10)]
        places[device.name] = found = device.storage.replicas.places([one.id for one in passages])
        there = {one.id for one in own}
        expected = [number if number in there else None for number in found]
        assert device.storage.replicas.passages_at(list(found.values()), index) == expected
        said = {one.id: one.text.rpartition("\n")[2] for one in passages}
        texts[device.name] = {
            (place.origin or device.name, place.item, place.seq, place.position): said[number]
            for number, place in found.items()
        }
    assert texts["ada"] == texts["eve"]
    assert sorted(texts["ada"].values()) == ["else", "one", "something", "three", "two"]  # nothing that is private

    def there(index):
        return len(set(ada.storage.replicas.passages_at(list(places["ada"].values()), index)) - {None})

    first, second = (ada.storage.open_index(name * 64, name, 4).id for name in "mn")
    assert (there(first), there(second)) == (3, 0)
    write(ada.storage, folder, "a.txt", "four\ntwo\nthree")
    numbers = [one.id for one in ada.storage.next_unembedded(first, 10)]
    ada.storage.note_embedded(first, numbers)
    assert ada.storage.replicas.places(numbers) == {}  # it is not signed yet
    ada.storage.replicas.sign(sign)
    assert len(ada.storage.replicas.places(numbers)) == 3
    assert there(first) == 0  # what is there is another version


def test_vectors_are_made_of_own_passages_first_and_of_others_from_the_other_end(pair):
    ada, eve = pair
    write(ada.storage, ada.storage.add_folder("/notes").id, "a.txt", "one\ntwo\nthree")
    settle(pair)
    write(eve.storage, eve.storage.add_folder("/else").id, "own.txt", "four\nfive")
    settle(pair)
    orders = []
    for device, when in ((ada, "before"), (eve, "before"), (eve, "after")):
        index = device.storage.open_index(f"{when[0]}" * 64, when, 4).id
        if when == "after":  # the model was known before the passages
            write(device.storage, device.storage.folder("/else").id, "own.txt", "six\nfour")
        orders.append([])
        while found := device.storage.next_unembedded(index, 1):
            device.storage.note_embedded(index, [found[0].id])
            orders[-1].append(found[0].text.rpartition("\n")[2])
    assert orders == [
        ["three", "two", "one", "four", "five"],
        ["five", "four", "one", "two", "three"],
        ["four", "six", "one", "two", "three"],
    ]
