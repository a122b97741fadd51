"""Keys of the model API: what they open, what is counted, and what outlives a restart."""

from __future__ import annotations

import asyncio
import logging
import stat
import time

import pytest

from ainet.api.answers import Answers
from ainet.api.generate import Done, GenerateRequest, Message, Start, Text, Timings
from ainet.errors import Busy, NotFound, Refused, UsageError
from ainet.node.access_keys import USED_UP, AccessKeys

#: Noon of some day, wherever this runs.
NOON = time.mktime((2026, 12, 1, 12, 0, 0, 0, 0, -1))
DAY = 86400.0
LOG = logging.getLogger("keys")


class Clock:
    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def keys(tmp_path, clock):
    keys = AccessKeys(tmp_path / "keys.sqlite", Answers(), LOG, now=clock)
    await keys.start()
    yield keys
    await keys.stop()


class Answerer:
    """Answers with as many tokens as are asked for, after a prompt of ten."""

    def __init__(self):
        self.requests = []
        self.pause = None

    async def __call__(self, request):
        self.requests.append(request)
        yield Start(model="smollm2", placement=[], prompt_tokens=10)
        n = min(request.max_tokens or 20, 20)
        for token in range(n):
            if self.pause is not None:
                await self.pause.wait()
            yield Text(text=f"w{token} ", tokens=[token])
        yield Done(
            finish="stop",
            text="whole",
            tokens=list(range(n)),
            model="smollm2",
            seed=1,
            placement=[],
            received={},
            timings=Timings(prompt_tokens=10, generated_tokens=n),
        )


def ask(**more):
    return GenerateRequest(messages=[Message("user", "hi")], **more)


async def events(keys, name, answerer, request=None):
    return [event async for event in keys.generate(name, answerer, request or ask())]


async def test_a_key_is_told_once_and_kept_as_a_hash(keys, tmp_path):
    made = await keys.create("phone")
    assert made.key.startswith("ainet-")
    assert len(made.key) > 40
    assert keys.find(made.key).name == "phone"
    assert keys.find(made.key[:-1]) is keys.find("") is keys.find("ainet-") is None
    path = tmp_path / "keys.sqlite"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for file in tmp_path.iterdir():
        assert made.key.encode() not in file.read_bytes()
        assert made.key.removeprefix("ainet-").encode() not in file.read_bytes()


async def test_two_keys_cannot_have_one_name(keys):
    await keys.create("phone")
    with pytest.raises(UsageError, match="a key called phone already"):
        await keys.create("phone")


async def test_what_is_revoked_or_has_expired_opens_nothing(keys, clock):
    first, second = await keys.create("first"), await keys.create("second", expires_in=30 * DAY)
    await keys.revoke("first")
    assert keys.find(first.key) is None
    with pytest.raises(Refused, match="revoked"):
        await events(keys, "first", Answerer())
    with pytest.raises(NotFound, match="No key is called first"):
        await keys.revoke("first")
    clock.now += 30 * DAY - 1
    assert keys.find(second.key) is not None
    clock.now += 1
    assert keys.find(second.key) is None
    assert [one.name for one in await keys.known()] == ["second"]


async def test_what_a_key_does_not_open_is_refused_by_name(keys):
    answerer = Answerer()
    await keys.create("plain")
    await keys.create("narrow", models=["SmolLM2", "qwen"], may_buy=True)
    with pytest.raises(Refused, match="no context"):
        await events(keys, "plain", answerer, ask(context="auto"))
    with pytest.raises(Refused, match="leave out seller"):
        await events(keys, "plain", answerer, ask(seller="ana"))
    with pytest.raises(NotFound, match=r"does not open 'llama', only SmolLM2, qwen"):
        await events(keys, "narrow", answerer, ask(model="llama"))
    assert not answerer.requests
    for model, asked in (("smollm2", "smollm2"), (None, "SmolLM2")):
        await events(keys, "narrow", answerer, ask(model=model, seller="ana"))
        assert answerer.requests[-1].model == asked


async def test_tokens_of_prompts_and_answers_are_counted_and_outlive_a_restart(keys, tmp_path, clock):
    await keys.create("phone")
    assert isinstance((await events(keys, "phone", Answerer()))[-1], Done)
    running = keys.generate("phone", Answerer(), ask())
    for _ in range(4):  # the prompt, and three tokens
        await anext(running)
    await running.aclose()
    (found,) = await keys.known()
    assert (found.used_today, found.last_used) == (30 + 13, NOON)
    await keys.stop()
    again = AccessKeys(tmp_path / "keys.sqlite", Answers(), LOG, now=clock)
    await again.start()
    assert await again.known() == [found]
    clock.now += DAY
    assert [one.used_today for one in await again.known()] == [0]
    await again.stop()


async def test_a_quota_ends_answers_and_comes_back_at_midnight(keys, clock):
    await keys.create("phone", tokens_per_day=25)
    answerer = Answerer()
    *_, done = await events(keys, "phone", answerer)
    assert answerer.requests[0].max_tokens == 25
    assert (done.finish, len(done.tokens), done.notes) == ("length", 15, [USED_UP])
    assert done.text == "".join(f"w{n} " for n in range(15))
    with pytest.raises(Busy, match="used up") as error:
        await events(keys, "phone", answerer)
    assert error.value.details["retry_after"] == 12 * 3600
    clock.now += 13 * 3600
    assert (await events(keys, "phone", answerer))[-1].finish == "length"


async def test_answers_side_by_side_share_a_quota(keys):
    await keys.create("phone", tokens_per_day=50)
    answerer = Answerer()
    answerer.pause = asyncio.Event()
    running = [asyncio.create_task(events(keys, "phone", answerer)) for _ in range(3)]
    await asyncio.sleep(0)
    answerer.pause.set()
    done = [(await one)[-1] for one in running]
    (found,) = await keys.known()
    assert 50 <= found.used_today <= 53
    assert any(one.notes == [USED_UP] for one in done)


async def test_a_damaged_file_is_put_aside(tmp_path, caplog):
    (tmp_path / "keys.sqlite").write_bytes(b"no database" * 100)
    keys = AccessKeys(tmp_path / "keys.sqlite", Answers(), LOG)
    await keys.start()
    assert await keys.known() == []
    assert "have to be made anew. It was put aside as keys.sqlite.damaged-" in caplog.text
    await keys.create("phone")
    await keys.stop()
