"""A small model guesses what a large one will say: the text stays the same, and useless guesses end by themselves."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import msgspec
import pytest
from support.local_nodes import ask as ask_node
from support.local_nodes import nodes
from support.smollm2 import N_CTX, one_process
from support.swarms import until
from support.tiny_models import write_model
from support.whole_stage import EPOCH, whole
from support.workshop import GREEDY, ask

from ainet.api.generate import Message
from ainet.api.models import unload_all
from ainet.api.node import status
from ainet.errors import UsageError
from ainet.executor.session_client import SessionClient
from ainet.executor.speculator import PAUSE, STEP, UNUSED, Speculator
from ainet.identity.identity import Identity
from ainet.stages.llama.llama import Llama
from ainet.stages.llama.prompts import chat
from ainet.stages.llama.vocabulary import Vocabulary
from ainet.stages.protocol.generation import MAX_GUESS, Done, Lap, Open, Resume, Started, Text
from ainet.stages.protocol.spec import EXACT_UBATCH
from ainet.stages.session_server import SessionServer
from ainet.stages.sessions.drafts import MAX_DRAFT, Drafter, LapTime
from ainet.stages.sessions.guesses import Guesses

QUESTION = "Tell me about rain."


def test_a_guess_is_what_the_model_would_say_however_the_text_changes(smollm2_path):
    tokens, _ = one_process(smollm2_path, QUESTION, GREEDY, 40)
    with Llama(smollm2_path, hidden_out=False, n_ctx=128) as llama:
        vocabulary = Vocabulary(llama)
        prompt = chat([Message("user", QUESTION)], vocabulary).tokens.tolist()
        guesses = Guesses(llama, vocabulary)
        assert guesses.guess(0, prompt, 6) == tokens[:6]
        assert guesses.guess(len(prompt), tokens[:6], 4) == tokens[6:10]
        assert guesses.guess(len(prompt) + 3, [tokens[0]], 1) != tokens[4:5] or tokens[3] == tokens[0]
        assert guesses.guess(len(prompt) + 2, tokens[2:20], 5) == tokens[20:25]
        assert guesses.guess(0, prompt, 3) == tokens[:3]
        whole = (prompt * 9)[:128]
        assert guesses.guess(0, whole, 5) == []  # its window is full
        for begin, asked in ((-1, [1]), (10_000, [1]), (0, []), (0, [-1]), (0, [10**6]), (0, [*whole, 1]), (128, [1])):
            with pytest.raises(UsageError, match="cannot guess"):
                guesses.guess(begin, asked, 4)
        assert guesses.guess(0, prompt, 3) == tokens[:3]


def test_what_a_model_guessed_is_tried_as_long_as_it_agrees():
    lap = LapTime()
    lap.measure(1, 0.1)
    lap.measure(2, 0.101)
    drafter = Drafter(lap)
    drafter.extend([1, 2, 3, 1, 2])
    assert drafter.draft(2) == [3, 1]  # found in the text
    drafter.suggest(5, [7, 8, 9])
    assert drafter.draft(5) == [7, 8, 9]
    drafter.extend([7])
    assert drafter.draft(1) == [8]
    drafter.extend([4])  # not what was guessed
    assert drafter.draft(5) == []
    drafter.suggest(9, [1])  # further than anything that is known
    assert drafter.draft(5) == []


class Oracle:
    """A model that is right, or wrong, about a text."""

    closed = False

    def __init__(self, text):
        self.text, self.asked = text, 0

    async def guess(self, text, most):
        self.asked += 1
        await asyncio.sleep(0)
        return self.text[len(text) : len(text) + most]


async def speculated(model, said, laps=(), resume=None):
    """Let a speculator hear of the tokens of `said` one by one, after a prompt [0]; return it and what it suggested."""
    told = []
    request = Open(session=1, messages=[Message("user", "x")], raw=True, sampling=GREEDY, max_tokens=9, resume=resume)
    speculator = Speculator(model, request, lambda begin, tokens: told.append((begin, tokens)))
    speculator.receive(Started(1, [0]))
    for token in said:
        for _ in range(40):
            await asyncio.sleep(0)
        speculator.receive(Text(1, "x", [token], list(laps)))
    return speculator, told


async def test_guesses_run_ahead_and_follow_what_is_said():
    text = [0, *range(1, 60)]
    speculator, told = await speculated(Oracle(text), text[1:20], [Lap(0, 2, 1)])
    for begin, tokens in told:
        assert tokens == text[begin : begin + len(tokens)]
    assert max(len(tokens) for _, tokens in told) >= MAX_DRAFT
    assert max(len(tokens) for _, tokens in told) < MAX_DRAFT + STEP <= MAX_GUESS
    await speculator.stop()
    model = Oracle(text)
    speculator, told = await speculated(model, text[6:8], resume=Resume([0], text[1:6]))
    assert told[0][0] == 6  # it goes on after what was said before
    await speculator.stop()


async def asks_no_more(speculator, model):
    asked = model.asked
    for _ in range(PAUSE // 2):
        speculator.receive(Text(1, "x", [1]))
        await asyncio.sleep(0)
    assert model.asked == asked
    await speculator.stop()


async def test_wrong_or_unused_guesses_end_for_a_while():
    wrong = Oracle([5] * 400)
    speculator, _ = await speculated(wrong, [1] * 30)
    await asks_no_more(speculator, wrong)
    text = [0, *range(1, 300)]
    unused = Oracle(text)
    speculator, _ = await speculated(unused, text[1 : UNUSED + 3])  # no lap with more than one row
    await asks_no_more(speculator, unused)


@pytest.mark.parametrize("suggested", ["right", "wrong", "impossible"])
async def test_suggestions_save_laps_and_change_no_text(
    smollm2_store, smollm2_manifest, smollm2_path, tmp_path, monkeypatch, *, suggested
):
    monkeypatch.setattr(Drafter, "length", lambda _: 6)
    identity = Identity.open(tmp_path / "node", "node")
    credentials, log = identity.local_credentials(), logging.getLogger("stage")
    options = {"exact": True, "speculate": True, "n_ubatch": EXACT_UBATCH}
    stage = await asyncio.to_thread(whole, smollm2_store, smollm2_manifest, identity.id, **options)
    server = SessionServer(stage, credentials, log)
    stage.start(None, None)
    port = await server.start("127.0.0.1")
    tokens, text = one_process(smollm2_path, QUESTION, GREEDY, 60, chunk=EXACT_UBATCH)
    client = await SessionClient.connect(credentials, ("127.0.0.1", port), identity.id, EPOCH, "the stage")
    got, said, begun = [], "", 0
    try:
        async for event in client.ask(msgspec.structs.replace(ask(GREEDY, 60, QUESTION), session=1)):
            match event:
                case Started(prompt=prompt):
                    begun, n = stage.decodes, len(prompt)
                case Text() | Done():
                    got += event.tokens if isinstance(event, Text) else []
                    said += event.text
            ahead = tokens[len(got) :]
            # Those that go wrong begin well: the answer may have gone on by the time they arrive.
            guess = {"right": ahead[:20], "wrong": [*ahead[:8], *[9] * 12], "impossible": [*ahead[:8], *[2**31] * 12]}
            client.suggest(1, n + len(got), guess[suggested])
        assert (got, said) == (tokens, text)
        if suggested == "right":
            assert stage.decodes - begun < 45
        client.suggest(99, 0, [1])  # an answer that nobody knows, or that has ended
        assert await client.guess(2, 0, prompt, 5) == tokens[:5]
        with pytest.raises(UsageError, match="cannot guess"):
            await client.guess(3, 0, [-1], 5)
        # What it read for guesses is in nobody's way.
        again = [event async for event in client.ask(msgspec.structs.replace(ask(GREEDY, 8, QUESTION), session=4))]
        assert [token for event in again if isinstance(event, Text) for token in event.tokens] == tokens[:8]
    finally:
        await client.close()
        await server.stop()
        await asyncio.to_thread(stage.stop)


async def test_a_node_loads_a_model_that_guesses_and_goes_on_without_it(tmp_path, smollm2_path):
    twin = tmp_path / "twin.gguf"  # the same but for its name
    twin.write_bytes(smollm2_path.read_bytes().replace(b"general.name", b"general.nama", 1))
    options = {"draft_model": "twin", "exact": True, "context_window": N_CTX, "chunk": EXACT_UBATCH}
    options["model_paths"] = [str(twin)]
    async with nodes(tmp_path, desk=options) as found:
        desk = found["desk"]
        expected = one_process(smollm2_path, QUESTION, GREEDY, 40, chunk=EXACT_UBATCH)[1]
        large = await desk.provider.manifest("smollm2")
        assert await desk.provider.finder.draft_of(large, "smollm2") is None  # it would guess what it says itself
        await ask_node(desk, stages=2)
        pipeline = desk.provider.pipelines.usable()[0]
        await until(lambda: pipeline.draft is not None, 20)
        small, asked = pipeline.draft, []
        guess = small.pipeline.guess

        async def counted(begin, tokens, most):
            asked.append(begin)
            return await guess(begin, tokens, most)

        small.pipeline.guess = counted
        assert pipeline.memory[desk.identity.id].host > sum(stage.memory for stage in pipeline.plan.stages) + 100e6
        assert (await ask_node(desk, text=QUESTION, stages=2, max_tokens=40)).text == expected
        assert asked
        assert max(asked) > 0  # what it knows already is not sent again
        os.kill(small.pipeline.placement[0].pid, signal.SIGKILL)
        assert (await ask_node(desk, text=QUESTION, stages=2, max_tokens=40)).text == expected
        await until(lambda: small.closed, 20)
        assert small.memory == {}
        assert (await ask_node(desk, text=QUESTION, stages=2, max_tokens=40)).text == expected
        await desk.call(unload_all)
        assert (await desk.call(status)).node.reserved.memory == 0


async def test_a_small_model_with_the_same_tokens_is_found_by_itself(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "models"
    folder.mkdir()
    write_model(folder / "large.gguf", "llama", 24, n_embd=256)
    write_model(folder / "small.gguf", "llama", 2)
    options = {"model_paths": [str(folder)], "discover_models": False, "model": "large"}
    async with nodes(tmp_path, desk=options) as found:
        finder = found["desk"].provider.finder
        large = await finder.manifest("large")
        assert (await finder.draft_of(large, "auto")).name == "small"
        assert await finder.draft_of(await finder.manifest("small"), "auto") is None
        assert await finder.draft_of(large, "none") is None
    async with nodes(tmp_path / "other", desk=options | {"discover_models": True}) as found:
        finder = found["desk"].provider.finder
        assert (await finder.draft_of(await finder.manifest("smollm2"), "auto")) is None  # small has other tokens
        assert await finder.draft_of(await finder.manifest("smollm2"), "small") is None
        assert "small cannot guess for smollm2: their tokens are not the same" in caplog.text
