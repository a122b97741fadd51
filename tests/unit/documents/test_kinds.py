"""Kinds of documents: what may be called how, and what nobody has registered is for nobody."""

import pytest

from ainet.documents.kinds import Fetch, Kind, Kinds, MembersOnly
from ainet.errors import Refused, UsageError


@pytest.fixture
def kinds():
    found = Kinds()
    for prefix in ("shared/", "settings"):
        found.add(Kind(prefix, MembersOnly(None), Fetch.WHEN_MET, stays=True))
    return found


@pytest.mark.parametrize("name", ["settings", "shared/plan", "shared/Ideen für 2027 ☂", "shared/" + "x" * 128])
def test_names_that_can_be(kinds, name):
    kinds.check_name(name)
    assert kinds.of(name).fetch is Fetch.WHEN_MET


@pytest.mark.parametrize(
    "name", ["", "shared/", "shared/a/b", "shared/\x00", "settings/x", "notebook/x", "other", "shared/" + "x" * 129]
)
def test_names_that_cannot_be_are_nobodys(kinds, name):
    with pytest.raises(UsageError, match="1 to 128 characters without a slash"):
        kinds.check_name(name)
    kind = kinds.of(name)
    assert kind.fetch is Fetch.ONCE_OPENED
    assert not kind.access.contacts(name)
    with pytest.raises(Refused, match="not shared with this device"):
        kind.access.check_write(name, "a node")


@pytest.mark.parametrize("prefix", ["shared/", "shared/mine/", "set", "settings"])
def test_two_kinds_that_could_be_confused_are_refused(kinds, prefix):
    with pytest.raises(ValueError, match="already"):
        kinds.add(Kind(prefix, MembersOnly(None), Fetch.WHEN_MET, stays=True))
