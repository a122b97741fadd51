"""Keys of the model API: what they open, what is counted, and what outlives a restart."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import stat
import time

import pytest

from ainet.api.answers import Answers
from ainet.api.generate import Done, GenerateRequest, Message, PromptScored, Start, Text, Timings
from ainet.api.logprobs import TokenLogprob
from ainet.errors import AinetError, Busy, NotFound, Refused, UsageError
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
            timings=Timings(prompt_tokens=10, reused_tokens=5, generated_tokens=n),
        )


def ask(**more):
    return GenerateRequest(messages=[Message("user", "hi")], **more)


async def events(keys, key, answerer, request=None):
    return [event async for event in keys.generate(key, answerer, request or ask())]


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
        await events(keys, first.key, Answerer())
    with pytest.raises(NotFound, match="No key is called first"):
        await keys.revoke("first")
    clock.now += 30 * DAY - 1
    assert keys.find(second.key) is not None
    running = keys.generate(second.key, Answerer(), ask())
    await anext(running)
    clock.now += 1
    assert keys.find(second.key) is None
    with pytest.raises(Refused, match="expired"):  # also in the middle of an answer
        await anext(running)
    assert [one.name for one in await keys.known()] == ["second"]


async def test_what_a_key_does_not_open_is_refused_by_name(keys):
    answerer = Answerer()
    plain = (await keys.create("plain")).key
    narrow = (await keys.create("narrow", models=["SmolLM2", "qwen"], may_buy=True)).key
    with pytest.raises(Refused, match="no context"):
        await events(keys, plain, answerer, ask(context="auto"))
    with pytest.raises(Refused, match="leave out seller"):
        await events(keys, plain, answerer, ask(seller="ana"))
    with pytest.raises(NotFound, match=r"does not open 'llama', only SmolLM2, qwen"):
        await events(keys, narrow, answerer, ask(model="llama"))
    assert not answerer.requests
    for model, asked in (("smollm2", "smollm2"), (None, "SmolLM2")):
        await events(keys, narrow, answerer, ask(model=model, seller="ana"))
        assert answerer.requests[-1].model == asked


async def test_tokens_of_prompts_and_answers_are_counted_and_outlive_a_restart(keys, tmp_path, clock):
    phone = (await keys.create("phone")).key
    *_, done = await events(keys, phone, Answerer())
    # What others have asked before is nobody's business.
    assert done.timings.reused_tokens == 0
    running = keys.generate(phone, Answerer(), ask())
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
    phone = (await keys.create("phone", tokens_per_day=25)).key
    answerer = Answerer()
    *_, done = await events(keys, phone, answerer)
    assert answerer.requests[0].max_tokens == 25
    assert (done.finish, len(done.tokens), done.notes) == ("length", 15, [USED_UP])
    assert done.text == "".join(f"w{n} " for n in range(15))
    with pytest.raises(Busy, match="used up") as error:
        await events(keys, phone, answerer)
    assert error.value.details["retry_after"] == 12 * 3600
    clock.now += 13 * 3600
    assert (await events(keys, phone, answerer))[-1].finish == "length"


async def test_answers_side_by_side_share_a_quota(keys):
    phone = (await keys.create("phone", tokens_per_day=50)).key
    answerer = Answerer()
    answerer.pause = asyncio.Event()
    running = [asyncio.create_task(events(keys, phone, answerer)) for _ in range(3)]
    await asyncio.sleep(0)
    answerer.pause.set()
    done = [(await one)[-1] for one in running]
    (found,) = await keys.known()
    assert 50 <= found.used_today <= 60
    assert any(USED_UP in one.notes for one in done)


async def test_prompts_side_by_side_do_not_exceed_a_quota(keys):
    phone = (await keys.create("phone", tokens_per_day=25)).key
    answerer = Answerer()
    answerer.pause = asyncio.Event()
    running = [asyncio.create_task(events(keys, phone, answerer)) for _ in range(50)]
    await asyncio.sleep(0)
    answerer.pause.set()
    ended = await asyncio.gather(*running, return_exceptions=True)
    (found,) = await keys.known()
    assert found.used_today < 25 + 10 + 3
    assert all(isinstance(one, Busy) or one[-1].finish == "length" for one in ended)


async def test_a_new_key_of_an_old_name_is_another_one(keys):
    old = (await keys.create("phone")).key
    running = keys.generate(old, Answerer(), ask())
    await anext(running)
    await keys.revoke("phone")
    await keys.create("phone", may_buy=True)
    with pytest.raises(Refused, match="revoked"):
        await anext(running)
    assert [one.used_today for one in await keys.known()] == [0]


async def test_a_cut_off_answer_tells_what_it_told(keys):
    phone = (await keys.create("phone", tokens_per_day=12)).key
    scored = [TokenLogprob(1, b"a", None), TokenLogprob(2, b"b", -1.0)]

    async def answer(request):
        yield Start(model="m", placement=[], prompt_tokens=10, notes=["asked as ChatML"])
        yield PromptScored(begin=0, logprobs=scored[:1])
        yield PromptScored(begin=1, logprobs=scored[1:])
        for token in range(9):
            yield Text(text="x", tokens=[token], logprobs=[TokenLogprob(token, b"x", -0.5)])

    *_, done = await events(keys, phone, answer)
    assert (done.prompt_logprobs, len(done.logprobs), done.text) == (scored, 2, "xx")
    assert done.notes == ["asked as ChatML", USED_UP]


async def test_what_cannot_be_written_down_spoils_no_answer(keys, monkeypatch, caplog):
    phone = (await keys.create("phone")).key

    async def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(keys, "_do", full)
    assert isinstance((await events(keys, phone, Answerer()))[-1], Done)
    assert "phone has used could not be written down (database or disk is full)" in caplog.text
    assert [one.used_today for one in await keys.known()] == [30]


async def test_a_file_of_a_newer_version_is_left_as_it_is(tmp_path):
    database = sqlite3.connect(tmp_path / "keys.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(AinetError, match="newer ainet"):
        await AccessKeys(tmp_path / "keys.sqlite", Answers(), LOG).start()
    assert [one.name for one in tmp_path.iterdir()] == ["keys.sqlite"]


@pytest.mark.parametrize("damage", ["all", "a page", "a letter", "a number"])
async def test_a_damaged_file_is_put_aside(tmp_path, caplog, damage):
    path = tmp_path / "keys.sqlite"
    if damage == "all":
        path.write_bytes(b"no database" * 100)
    else:
        before = AccessKeys(path, Answers(), LOG)
        await before.start()
        for n in range(60):
            await before.create(f"key {n}", models=["a" * 100])
        await before.stop()
        if damage == "a page":
            data = bytearray(path.read_bytes())
            data[8192:] = b"\xff" * (len(data) - 8192)
            path.write_bytes(data)
        else:
            change = "name = CAST(X'6bff' AS TEXT)" if damage == "a letter" else "expires = 'soon'"
            database = sqlite3.connect(path, isolation_level=None)
            database.execute(f"UPDATE keys SET {change} WHERE name = 'key 7'")  # noqa: S608
            database.close()
    keys = AccessKeys(path, Answers(), LOG)
    await keys.start()
    assert await keys.known() == []
    assert "have to be made anew. It was put aside as keys.sqlite.damaged-" in caplog.text
    await keys.create("phone")
    await keys.stop()
