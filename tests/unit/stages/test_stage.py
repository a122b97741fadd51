"""A stage and its door, without Dask: sessions, their queue, cancellation, refusals."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from support.smollm2 import N_CTX, one_process
from support.whole_stage import ENDLESS, EPOCH, whole

from ainet.api.generate import Message
from ainet.errors import AinetError, Busy, PromptTooLong, Refused, StageLost
from ainet.executor.session_client import SessionClient
from ainet.identity.identity import Identity
from ainet.stages.protocol.flow import Flow
from ainet.stages.protocol.generation import Done, Open, Started, Text
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.segments import Segment
from ainet.stages.session_server import SessionServer
from ainet.stages.stage import Stage
from ainet.timing import Timing

QUESTION = "Name three colours of the rainbow and explain them."
GREEDY = SamplingParams(temperature=0)
#: SmolLM2's token that ends an answer.
END = 2


@pytest.fixture
async def pipeline(request, smollm2_store, smollm2_manifest, tmp_path):
    """SmolLM2 as a pipeline of one stage: (stage, connect); the parameter names other options of the stage."""
    identity = Identity.open(tmp_path / "node", "node")
    credentials = identity.local_credentials()
    stage = await asyncio.to_thread(
        whole, smollm2_store, smollm2_manifest, identity.id, **getattr(request, "param", {})
    )
    server = SessionServer(stage, credentials, logging.getLogger("sessions"))
    port = await server.start("127.0.0.1")
    stage.start(None, None)

    @asynccontextmanager
    async def connect(epoch=EPOCH, expected=identity.id, with_credentials=credentials):
        client = await SessionClient.connect(with_credentials, ("127.0.0.1", port), expected, epoch, "The stage")
        yield client
        await client.close()

    connect.port = port
    yield stage, connect
    await server.stop()
    await asyncio.to_thread(stage.stop)


def ask(session=1, question=QUESTION, max_tokens=12, sampling=GREEDY, **more):
    messages = [Message("user", question)]
    return Open(session=session, messages=messages, raw=False, sampling=sampling, max_tokens=max_tokens, **more)


async def answer(client, request):
    events = [event async for event in client.ask(request)]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Done)
    tokens = [token for event in events if isinstance(event, Text) for token in event.tokens]
    text = "".join(event.text for event in events if isinstance(event, Text | Done))
    return tokens, text, events[-1].finish


async def free(stage):
    async with asyncio.timeout(10):
        while stage._head.waiting:
            await asyncio.sleep(0.01)


async def test_the_answer_is_that_of_one_process(pipeline, smollm2_path):
    _, connect = pipeline
    async with connect() as client:
        for sampling in (GREEDY, SamplingParams(temperature=1.0, seed=11)):
            tokens, text, finish = await answer(client, ask(sampling=sampling, max_tokens=24))
            expected = await asyncio.to_thread(one_process, smollm2_path, QUESTION, sampling, 24)
            assert (tokens, text) == expected
            assert finish == ("length" if len(tokens) == 24 else "stop")


async def test_a_stop_string_ends_the_answer(pipeline):
    _, connect = pipeline
    async with connect() as client:
        _, whole, _ = await answer(client, ask(max_tokens=30))
        word = whole.split()[3]
        _, text, finish = await answer(client, ask(max_tokens=30, stop=[word]))
        assert finish == "stop"
        assert text == whole[: whole.index(word)]


async def test_leaving_the_answer_stops_the_stage_within_a_token(pipeline, monkeypatch):
    stage, connect = pipeline
    cancel, heard = stage._head.cancel, []
    monkeypatch.setattr(stage._head, "cancel", lambda request: (heard.append(stage.decodes), cancel(request)))
    async with connect() as client:
        events = client.ask(ask(max_tokens=900, sampling=ENDLESS))
        seen = 0
        async for event in events:
            seen += isinstance(event, Text)
            if seen == 3:
                break
        await events.aclose()
        await free(stage)
        [at] = heard  # it had not come to its end
        assert stage.decodes - at <= 1  # the token under way
        assert await answer(client, ask(2)) == await answer(client, ask(3))  # nothing is left of the first


async def collect(events, tokens):
    async for event in events:
        tokens += event.tokens if isinstance(event, Text) else []


@pytest.mark.parametrize(
    "pipeline", [{"sessions": 2, "speculate": tries, "exact": True} for tries in (False, True)], indirect=True
)
async def test_an_answer_pauses_where_it_may_go_no_further_and_others_go_on(pipeline):
    _, connect = pipeline
    story = {"question": "Count: one two three one two three one two three", "max_tokens": 40}
    async with connect() as client:
        expected, _, finish = await answer(client, ask(1, **story))
        flow, tokens = Flow(5), []
        going = asyncio.create_task(collect(client.ask(ask(2, **story), flow), tokens))
        await answer(client, ask(3, max_tokens=30))
        assert tokens == expected[:5]
        flow.allow(9)
        async with asyncio.timeout(10):
            while len(tokens) < 9:
                await asyncio.sleep(0.01)
        await answer(client, ask(4, max_tokens=30))
        assert tokens == expected[:9]
        flow.allow(1000)
        await going
        assert tokens == expected, finish


@pytest.mark.parametrize("pipeline", [{"sessions": 2}], indirect=True)
async def test_an_answer_makes_way_at_once_and_goes_on_later(pipeline):
    stage, connect = pipeline
    async with connect() as client:
        flow, tokens = Flow(10_000), []
        going = asyncio.create_task(collect(client.ask(ask(1, max_tokens=700, sampling=ENDLESS), flow), tokens))
        async with asyncio.timeout(20):
            while not tokens:
                await asyncio.sleep(0.01)
        flow.pause()
        await answer(client, ask(2, max_tokens=4))  # it comes after the pause
        before = len(tokens)
        await answer(client, ask(3, max_tokens=30))
        assert len(tokens) == before
        flow.go_on()
        async with asyncio.timeout(20):
            while len(tokens) == before:
                await asyncio.sleep(0.01)
        flow.pause()
        await answer(client, ask(4, max_tokens=4))
        going.cancel()  # a session that waits can be ended, too
        await asyncio.gather(going, return_exceptions=True)
        await free(stage)


async def judge(client, request):
    events = [event async for event in client.ask(request)]
    return [one for event in events if isinstance(event, Text) for one in event.margins], events[-1].finish


@pytest.mark.parametrize("pipeline", [{"sessions": 3, "speculate": True}], indirect=True)
@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0), SamplingParams(temperature=0.7, seed=5)])
async def test_an_answer_is_judged_as_it_would_have_been_drawn(pipeline, sampling):
    _, connect = pipeline
    async with connect() as client:
        begun = [event async for event in client.ask(ask(1, max_tokens=60, sampling=sampling))]
        said = [token for event in begun if isinstance(event, Text) for token in event.tokens]
        asked = {"max_tokens": 61, "sampling": sampling}
        margins, finish = await judge(client, ask(2, expected=said, **asked))
        assert (len(margins), finish) == (len(said), "length")
        honest = sum(margins) / len(margins)
        assert honest < 0.03
        # Beside others, too.
        others = [asyncio.create_task(answer(client, ask(n, max_tokens=40))) for n in (3, 4)]
        beside, _ = await judge(client, ask(5, expected=said, **asked))
        await asyncio.gather(*others)
        assert sum(beside) / len(beside) < 0.03
        wrong = [*said[:30], *reversed(said[30:])]
        margins, _ = await judge(client, ask(6, expected=wrong, **asked))
        assert sum(margins[:30]) / 30 < 0.05
        assert sum(margins[31:]) / len(margins[31:]) > 0.5
        # An answer that is said to have ended where it could not.
        margins, finish = await judge(client, ask(7, expected=said[:9], expects_end=True, **asked))
        assert (len(margins), finish, margins[-1]) == (10, "stop", 1.0)


async def test_an_answer_that_goes_on_where_it_should_have_ended_is_not_the_model_s(pipeline):
    _, connect = pipeline
    async with connect() as client:
        asked = {"max_tokens": 20, "sampling": SamplingParams(temperature=0, grammar='root ::= "yes"')}
        begun = [event async for event in client.ask(ask(1, **asked))]
        said = [token for event in begun if isinstance(event, Text) for token in event.tokens]
        assert begun[-1].finish == "stop"
        margins, _ = await judge(client, ask(2, expected=said, expects_end=True, **asked))
        assert (len(margins), margins[-1] < 1) == (len(said) + 1, True)
        margins, _ = await judge(client, ask(3, expected=[*said, END], **asked))
        assert (len(margins), margins[-1]) == (len(said) + 1, 1.0)
        # An empty answer has an end, too.
        margins, finish = await judge(client, ask(4, expects_end=True, **asked))
        assert (margins, finish) == ([1.0], "stop")


async def test_a_lost_requester_frees_the_stage(pipeline):
    stage, connect = pipeline
    async with connect() as client:
        events = client.ask(ask(max_tokens=900, sampling=ENDLESS))
        await anext(events)
        await anext(events)
        client._stream.cut()
        with pytest.raises(StageLost, match="does not answer any more"):
            async for _ in events:
                pass
    await free(stage)


@pytest.mark.parametrize("pipeline", [{"timing": Timing(first_generation=1000.0)}], indirect=True)
async def test_one_too_many_is_told_when_to_come_back(pipeline):
    _, connect = pipeline
    async with connect() as client:
        running = client.ask(ask(1, max_tokens=900, sampling=ENDLESS))
        await anext(running)
        waiting = asyncio.create_task(answer(client, ask(2)))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match=r"2 requests are before yours. Ask again in \d+ s") as refused:
            await answer(client, ask(3))
        assert refused.value.details["retry_after"] == 2000
        await running.aclose()
        tokens, _, _ = await waiting
        assert len(tokens) == 12

        # What was measured replaces the guess.
        running = client.ask(ask(4, max_tokens=900, sampling=ENDLESS))
        await anext(running)
        waiting = asyncio.create_task(answer(client, ask(5)))
        await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await answer(client, ask(6))
        assert 1 <= refused.value.details["retry_after"] < 1000
        await running.aclose()
        await waiting


async def test_a_prompt_beyond_the_window_is_refused_with_both_lengths(pipeline):
    _, connect = pipeline
    async with connect() as client:
        with pytest.raises(PromptTooLong, match=rf"prompt has \d{{4}} tokens, but the context window holds {N_CTX}"):
            await answer(client, ask(question="word " * 2000))
        tokens, _, _ = await answer(client, ask(2))
        assert len(tokens) == 12


@pytest.mark.parametrize("pipeline", [{"n_ctx": 256}], indirect=True)
async def test_an_answer_ends_with_the_window(pipeline):
    _, connect = pipeline
    async with connect() as client:
        question = "word " * (256 - 60)
        tokens, _, finish = await answer(client, ask(question=question, max_tokens=900, sampling=ENDLESS))
        assert finish == "context"
        assert 5 < len(tokens) < 60


async def test_another_epoch_and_another_owner_are_refused(pipeline, tmp_path, caplog):
    _, connect = pipeline
    async with connect(epoch=b"f" * 16) as client:
        with pytest.raises(Refused, match="belongs to another node, or was placed again"):
            await answer(client, ask())
    with pytest.raises(Refused, match="Another device answers"):
        async with connect(expected="b" * 52):
            pass
    stranger = Identity.open(tmp_path / "stranger", "stranger").local_credentials()
    with pytest.raises(AinetError):
        async with connect(with_credentials=stranger) as client:
            await answer(client, ask())
    assert "A requester from 127.0.0.1" in caplog.text


async def test_plain_tcp_is_refused(pipeline, caplog):
    _, connect = pipeline

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", connect.port), timeout=5) as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return plain.recv(100)

    assert b"speaks TLS 1.3 and is for the owner of a pipeline only" in await asyncio.to_thread(talk)
    assert "A requester from 127.0.0.1" in caplog.text
    assert "does not speak TLS" in caplog.text


async def test_a_message_over_the_limit_is_refused(pipeline):
    _, connect = pipeline
    async with connect() as client:
        with pytest.raises(AinetError, match="at most 4194304 are allowed"):
            await answer(client, ask(question="x" * (5 << 20)))


async def test_stopping_the_stage_tells_who_waits(pipeline):
    stage, connect = pipeline
    async with connect() as client:
        running = client.ask(ask(1, max_tokens=900, sampling=ENDLESS))
        await anext(running)
        await asyncio.to_thread(stage.stop)
        with pytest.raises(StageLost, match="the pipeline was unloaded"):
            async for _ in running:
                pass


def test_rows_of_who_has_left_are_not_computed_when_others_share_the_batch():
    """The first ones may be left out already: what follows them would begin at a position that nobody knows."""
    stage = Stage.__new__(Stage)
    stage._head = SimpleNamespace(answers=lambda segment: segment.slot != 1)
    segments = [Segment(0, 5, 1, 1), Segment(1, 64, 3), Segment(2, 0, 2, 1)]
    rows = np.arange(6, dtype=np.float32).reshape(6, 1)
    left, kept = stage._wanted(segments, rows)
    assert left == [segments[0], segments[2]]
    assert kept[:, 0].tolist() == [0, 4, 5]
    assert stage._wanted(segments[1:2], rows[1:4])[0] == []
