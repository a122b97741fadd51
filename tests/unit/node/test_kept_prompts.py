"""Members that were away hear that prompts are to be forgotten, also after this device was restarted."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest

from ainet.errors import PeerUnreachable
from ainet.executor.requests import ForgetPrompts
from ainet.node.kept_prompts import FILE, KeptPrompts

MEMBERS = ("me", "near", "far")


class Link:
    """A link to a member, which notes what it is asked."""

    def __init__(self, peer_id, error=None):
        self.peer_id = self.peer_name = peer_id
        self.error, self.asked = error, []

    async def request(self, request):
        self.asked.append(request)
        if self.error is not None:
            raise self.error


class Links:
    """The links of a device whose id is ``me``."""

    def __init__(self, *links):
        self.open = list(links)
        self.identity = SimpleNamespace(
            id="me", roster=SimpleNamespace(members=[SimpleNamespace(id=one) for one in MEMBERS])
        )

    def links(self):
        return self.open

    def handle(self, _request, _answer):
        pass

    def on_linked(self, callback):
        self.linked = callback


@pytest.fixture
def prompts(tmp_path):
    def made(*links):
        links = Links(*links)
        found = KeptPrompts(None, None, None, links, data_dir=tmp_path, log=logging.getLogger("test"))
        found.links = links
        return found

    return made


async def until_told(path, untold):
    """Wait until the note says who is still to be told; nothing where it is gone."""
    async with asyncio.timeout(10):
        while _read(path) != untold:
            await asyncio.sleep(0)


def _read(path):
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


async def test_who_is_away_hears_later(prompts, tmp_path):
    near, broken = Link("near"), Link("far", PeerUnreachable("It is gone."))
    before = prompts(near, broken)
    await before.forget_on_members()
    await until_told(tmp_path / FILE, '["far"]')
    assert near.asked == [ForgetPrompts()]
    await before.stop()

    again, far = prompts(), Link("far")
    again.links.linked(near)
    again.links.linked(far)
    await until_told(tmp_path / FILE, "")
    assert (len(near.asked), far.asked) == (1, [ForgetPrompts()])
    await again.stop()


async def test_a_damaged_note_stops_nothing(prompts, tmp_path):
    (tmp_path / FILE).write_text("junk")
    near = Link("near")
    made = prompts(near)
    made.links.linked(near)
    await made.forget_on_members()
    await until_told(tmp_path / FILE, '["far"]')
    await made.stop()


async def test_who_is_told_while_there_is_more_to_forget_is_told_once_more(prompts, tmp_path):
    near = Link("near")
    made = prompts(near)
    ask, is_first = near.request, True

    async def request(asked):
        nonlocal is_first
        await ask(asked)
        if is_first:
            is_first = False
            made.links.open = []  # nobody else tells it
            await made.forget_on_members()

    near.request = request
    await made.forget_on_members()
    await until_told(tmp_path / FILE, '["far"]')
    assert near.asked == [ForgetPrompts()] * 2
    await made.stop()
