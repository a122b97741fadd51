"""Sessions go on when stages of their pipeline are replaced: only new ones compute again, and the text is the same."""

from __future__ import annotations

import logging
import queue
import threading
import time

import msgspec
import pytest
from support.tiny_models import write_model
from support.whole_stage import EPOCH
from support.workshop import GREEDY, ask

from ainet.identity.identity import Identity
from ainet.models.shards import ShardStore
from ainet.models.tensors import TensorStore
from ainet.stages.protocol.generation import Done, Failed, Resume, Started, Text
from ainet.stages.protocol.recovery import Continued, Held, Recovery, plan_recovery
from ainet.stages.protocol.spec import StageSpec
from ainet.stages.ring.frames import RingListener, connect
from ainet.stages.stage import Stage
from ainet.timing import TIMING, Timing

N_STAGES = 4
N_CTX = 2048
CHUNK = 32
N_PROMPT = 150
TOKENS = 40


class Answer:
    """What a session said, until its pipeline was lost or the answer was complete."""

    def __init__(self, request) -> None:
        self.request, self.events = request, queue.Queue()
        self.prompt, self.tokens, self.laps, self.key, self.reused = [], [], [], 0, 0
        self.done = False
        #: How many tokens the stages have told, whether anybody has listened to them yet or not.
        self.told = 0

    def reply(self, event) -> None:
        """Hear of an event, in the decode thread."""
        self.told += len(event.tokens) if isinstance(event, Text) else 0
        self.events.put(event)

    def hear(self, *, until: int = N_CTX) -> None:
        """Listen until this many tokens came, or the end."""
        while not self.done and len(self.tokens) < until:
            self._take(self.events.get(timeout=60))

    def hear_the_rest(self) -> None:
        """Take what was said before the pipeline was lost."""
        while not self.done:
            event = self.events.get(timeout=60)
            if isinstance(event, Failed):
                assert "lost" in event.error["code"]
                return
            self._take(event)

    def _take(self, event) -> None:
        match event:
            case Started() as started:
                self.prompt, self.key, self.reused = started.prompt, started.key, started.reused
            case Text() as text:
                self.tokens += text.tokens
                self.laps += text.laps
            case Done(finish=finish):
                self.done, self.finish = True, finish
            case Failed() as failed:
                raise AssertionError(failed)

    @property
    def rest(self):
        resume = Resume(self.prompt, self.tokens, self.laps, self.key)
        return msgspec.structs.replace(self.request, messages=[], resume=resume)


class Pipeline:
    """Stages of a tiny model in this process, which can be lost and replaced."""

    def __init__(self, folder, timing=TIMING, kept_bytes=None, **options) -> None:
        self._more = {"timing": timing, "kept_bytes": kept_bytes}
        self._folder = folder
        self._identity = Identity.open(folder / "node", "node")
        self._store = TensorStore(folder / "store")
        path = write_model(folder / "tiny.gguf", "llama", N_STAGES, metadata={"context_length": N_CTX})
        self._manifest = self._store.register(path, name="tiny")
        self._options = options
        self.stages: list[Stage] = []
        self.recovery: Recovery | None = None
        #: The last stage waits where this is true, until it is told to do something: so what happens to an answer
        #: happens while it runs.
        self.holds = lambda: False

    def load(self, remains=(None,) * N_STAGES, owner="o"):
        """Load the stages, those that are left as they are, and link them to a ring."""
        self.stages = []
        for layer, left in enumerate(remains):
            spec = StageSpec(
                pipeline="p",
                epoch=EPOCH,
                owner=owner,
                model=self._manifest.digest,
                first_layer=layer,
                last_layer=layer,
                n_stages=N_STAGES,
                **{
                    "n_ctx": N_CTX, "n_ubatch": CHUNK, "threads": 1, "gpu": False, "sessions": 3, "queue": 3,
                    **self._options,
                },
            )  # fmt: skip
            shard = ShardStore(self._store).assemble(self._manifest, layer, layer)
            stage = Stage(spec, shard, logging.getLogger("stage"), remains=left, folder=str(self._folder), **self._more)
            self.stages.append(stage)
        self.recovery = plan_recovery(range(N_STAGES), [stage.state()["held"] for stage in self.stages])
        credentials = self._identity.local_credentials()
        ways = []
        for stage in self.stages:
            listener, found = RingListener(credentials, "127.0.0.1", print), []
            accepting = threading.Thread(
                target=lambda listener=listener, found=found, most=stage.max_payload: found.append(
                    listener.accept(self._identity.id, EPOCH, most)
                )
            )
            accepting.start()
            address = ("127.0.0.1", listener.port)
            sender = connect(credentials, address, self._identity.id, EPOCH, stage.max_payload)
            accepting.join()
            ways.append((sender, found[0]))
        for i, stage in enumerate(self.stages):
            stage.start(
                ways[i][1], ways[(i + 1) % N_STAGES][0], self._options.get("kept_tokens", 0), recovery=self.recovery
            )

    def lose(self, *lost: int, owner="o"):
        """Lose stages; the others end, and their models and what they know stay for the pipeline in their place."""
        for number in lost:
            self.stages[number].stop()
        remains = [None if i in lost else stage.detach() for i, stage in enumerate(self.stages)]
        self.holds = lambda: False
        self.load(remains, owner)

    def close(self):
        for stage in self.stages:
            stage.stop()
        self._store.close()

    def open(self, *requests, until: int = N_CTX, holds=None):
        """Ask at once; the last stage holds all there is when each answer has this many tokens, or as `holds` says."""
        answers = [Answer(request) for request in requests]
        self._ask(answers, until, holds)
        return answers[0] if len(answers) == 1 else answers

    def go_on(self, *answers, until: int = N_CTX) -> None:
        """Ask for the rest of answers."""
        for answer in answers:
            answer.request = answer.rest
        self._ask(answers, until)

    def _ask(self, answers, until, holds=None) -> None:
        self.holds = holds or (lambda: all(answer.told >= until for answer in answers))
        last = self.stages[-1]

        def begin():
            for answer in answers:
                last.head.open(answer.request, answer.reply)

        last.inbox.put(begin)

    def known(self, number):
        """What a stage knows of its sessions."""
        return self.stages[number]._cache.held()

    @property
    def decodes(self):
        return [stage.decodes for stage in self.stages]


@pytest.fixture
def make(tmp_path, monkeypatch):
    made: list[Pipeline] = []
    process = Stage._process

    def held(stage, *arguments):
        while any(one.stages[-1:] == [stage] and one.holds() for one in made) and not stage.inbox._commands:
            time.sleep(0.001)
        process(stage, *arguments)

    monkeypatch.setattr(Stage, "_process", held)

    def make(**options) -> Pipeline:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        pipeline = Pipeline(folder, **options)
        made.append(pipeline)
        pipeline.load()
        return pipeline

    yield make
    for pipeline in made:
        pipeline.close()


def question(session=7, n_prompt=N_PROMPT, max_tokens=TOKENS):
    """Return a request; with the prompt of session 7, the answer does not end before `max_tokens`."""
    prompt = [1, *[3 + (session * i * i) % 200 for i in range(n_prompt - 1)]]
    request = ask(GREEDY, max_tokens)
    resume = Resume(prompt, [], [])
    return msgspec.structs.replace(request, session=session, user=str(session), messages=[], resume=resume)


def wait(condition):
    """Wait for what another thread does."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def undisturbed(pipeline, *requests):
    answers = []
    for request in requests:
        answers.append(pipeline.open(request))
        answers[-1].hear()
        wait(lambda: not any(map(pipeline.known, range(N_STAGES))))
    return [answer.tokens for answer in answers]


@pytest.mark.parametrize("lost", [(1,), (3,), (0,), (1, 2), (2, 3), (0, 1), (0, 3), (0, 2), ()], ids=str)
@pytest.mark.parametrize("at", [1, 17])
def test_only_new_stages_compute_again(make, lost, at):
    pipeline = make(speculate=True)
    request = question()
    [expected] = undisturbed(pipeline, request)
    answer = pipeline.open(request, until=at)
    answer.hear(until=at)
    pipeline.lose(*lost)
    answer.hear_the_rest()
    said = len(answer.tokens)
    assert pipeline.recovery is not None
    assert [one.key for one in pipeline.recovery.sessions] == [answer.key]
    key = answer.key
    pipeline.go_on(answer)
    answer.hear()
    assert answer.tokens == expected
    assert answer.key == key
    again = -(-N_PROMPT // CHUNK)
    for number, decodes in enumerate(pipeline.decodes):
        assert decodes <= TOKENS - said + 1 + (again + said if number in lost else 0)
        if number in lost:
            assert decodes >= again


def test_a_pipeline_may_be_lost_again_and_again(make):
    pipeline = make(speculate=True)
    request = question(max_tokens=200)
    [expected] = undisturbed(pipeline, request)
    assert len(expected) == 200
    answer, until = pipeline.open(request, until=5), 5
    for lost in [(2,), (1,), (3,), (2,), (0,), (1, 2)]:
        answer.hear(until=until)
        pipeline.lose(*lost)
        answer.hear_the_rest()
        assert not answer.done
        until = len(answer.tokens) + 5
        pipeline.go_on(answer, until=until)
    pipeline.holds = lambda: False
    answer.hear()
    assert answer.tokens == expected


@pytest.mark.parametrize("lost", [(1,), (3,), (0,)], ids=str)
def test_a_prompt_that_was_half_way_goes_on(make, lost):
    pipeline = make()
    request = question(n_prompt=400)
    [expected] = undisturbed(pipeline, request)
    before = pipeline.decodes[-1]
    answer = pipeline.open(request, holds=lambda: pipeline.decodes[-1] >= before + 2)
    wait(lambda: sum(one.known for one in pipeline.known(2)) >= 64)
    pipeline.lose(*lost)
    answer.hear_the_rest()
    assert answer.tokens == []
    [session] = pipeline.recovery.sessions
    assert session.known >= 32
    pipeline.go_on(answer)
    answer.hear()
    assert answer.key == session.key
    assert answer.tokens == expected


@pytest.mark.parametrize("lost", [(1,), (3,), (0,)], ids=str)
def test_in_exact_mode_sessions_that_share_the_stages_say_the_same(make, lost):
    pipeline = make(exact=True, n_ubatch=32)
    requests, expected = [], []
    for request in (question(session, max_tokens=200) for session in range(1, 13)):
        [tokens] = undisturbed(pipeline, request)
        if len(tokens) == 200:
            requests.append(request)
            expected.append(tokens)
        if len(requests) == 3:
            break
    assert len(requests) == 3
    answers = pipeline.open(*requests, until=10)
    for until, following in ((10, 40), (40, N_CTX)):  # twice
        for answer in answers:
            answer.hear(until=until)
        pipeline.lose(*lost)
        for answer in answers:
            answer.hear_the_rest()
        assert len(pipeline.recovery.sessions) == 3
        keys = [answer.key for answer in answers]
        pipeline.go_on(*answers, until=following)
    for answer, tokens in zip(answers, expected, strict=True):
        answer.hear()
        assert answer.tokens == tokens
    assert [answer.key for answer in answers] == keys  # what was known was used


def test_in_exact_mode_an_answer_without_an_end_goes_on_at_once(make):
    """It has reserved all cells, and what was on its way keeps some: then it is computed again instead."""
    pipeline = make(timing=Timing(claim=1000.0), exact=True, n_ctx=256)  # nothing is waited for
    request = question(max_tokens=1000)
    [expected] = undisturbed(pipeline, request)
    answer = pipeline.open(request, until=5)
    answer.hear(until=5)
    pipeline.lose(1)
    answer.hear_the_rest()
    pipeline.go_on(answer)
    answer.hear()
    assert answer.tokens == expected


def test_what_is_known_of_a_session_is_never_kept_for_others(make):
    """Whoever goes on with a session may lie about its tokens: that is nobody's prompt."""
    pipeline = make(kept_tokens=400)
    [expected] = undisturbed(pipeline, theirs := question(2))
    pipeline.lose()  # no copies are left
    answer = pipeline.open(question(), until=1)
    answer.hear(until=1)
    pipeline.lose(1)
    answer.hear_the_rest()
    answer.prompt, answer.tokens, answer.laps = theirs.resume.prompt, [], []
    pipeline.go_on(answer)
    answer.hear()
    assert answer.key == pipeline.recovery.sessions[0].key
    wait(lambda: not any(map(pipeline.known, range(N_STAGES))))
    assert undisturbed(pipeline, theirs) == [expected]


def test_what_began_with_a_copy_of_a_prompt_goes_on(make):
    pipeline = make(kept_tokens=400)
    request = question()
    [expected] = undisturbed(pipeline, request)
    answer = pipeline.open(request, until=8)  # its prompt is known
    answer.hear(until=8)
    pipeline.lose(2)
    assert answer.reused == N_PROMPT - N_PROMPT % CHUNK
    answer.hear_the_rest()
    assert [one.key for one in pipeline.recovery.sessions] == [answer.key]
    pipeline.go_on(answer)
    answer.hear()
    assert answer.tokens == expected
    assert undisturbed(pipeline, request) == [expected]  # the copies are gone everywhere


def test_another_owner_finds_nothing(make):
    pipeline = make()
    answer = pipeline.open(question(), until=5)
    answer.hear(until=5)
    pipeline.lose(2, owner="another")
    assert pipeline.recovery is None
    [expected] = undisturbed(pipeline, question())
    answer.hear_the_rest()
    before = max(pipeline.decodes)
    pipeline.go_on(answer)  # with a key that nobody knows: all stages compute again
    answer.hear()
    assert answer.tokens == expected
    assert min(pipeline.decodes) >= before + N_PROMPT // CHUNK


def test_a_session_that_nobody_claims_is_given_up(make):
    pipeline = make(timing=Timing(claim=1.0), sessions=1)
    request = question()
    [expected] = undisturbed(pipeline, request)
    answer = pipeline.open(request, until=5)
    answer.hear(until=5)
    pipeline.lose(1)
    assert undisturbed(pipeline, question()) == [expected]  # it waits for the only slot
    wait(lambda: not any(map(pipeline.known, range(N_STAGES))))


def test_where_nothing_was_kept_all_stages_compute_again(make):
    pipeline = make(kept_bytes=10_000)
    request = question()
    [expected] = undisturbed(pipeline, request)
    answer = pipeline.open(request, until=5)
    answer.hear(until=5)
    pipeline.lose(2)
    assert pipeline.recovery is None
    answer.hear_the_rest()
    pipeline.go_on(answer)
    answer.hear()
    assert answer.tokens == expected


def test_what_cannot_be_read_again_is_computed_again_the_next_time(make, monkeypatch):
    pipeline = make()
    request = question()
    [expected] = undisturbed(pipeline, request)
    answer = pipeline.open(request, until=5)
    answer.hear(until=5)

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ainet.stages.ring.kept_states._Spool.read", broken)
    pipeline.lose(2)
    answer.hear_the_rest()
    pipeline.go_on(answer)
    with pytest.raises(AssertionError, match="lost"):
        answer.hear()
    pipeline.lose()
    pipeline.go_on(answer)
    answer.hear()
    assert answer.tokens == expected


def test_cancelling_ends_a_session_that_went_on(make):
    pipeline = make()
    answer = pipeline.open(question(), until=5)
    answer.hear(until=5)
    pipeline.lose(2)
    answer.hear_the_rest()
    pipeline.go_on(answer, until=8)
    answer.hear(until=8)
    last = pipeline.stages[-1]
    last.inbox.put(lambda: last.head.cancel(answer.request))
    pipeline.holds = lambda: False
    answer.hear()
    assert answer.finish == "cancelled"
    wait(lambda: not any(map(pipeline.known, range(N_STAGES))))


def test_plans_of_recovery():
    same = [Held(7, 0, 50, 50, 50)]
    assert plan_recovery([0, 1], [None, None]) is None
    assert plan_recovery([0, 1], [same, None]) == Recovery([Continued(7, 0, 50, 50)], [1], [], 0)
    assert plan_recovery([0, 1], [None, same]) == Recovery([Continued(7, 0, 50, 50)], [0], [], 0)
    assert plan_recovery([0, 4], [same, [Held(8, 0, 50, 50, 50)]]) is None  # another session
    assert plan_recovery([0, 4], [same, []]) is None
    # What the stage before a new one can send again counts, and only there.
    short = [Held(7, 0, 50, 20, 51)]
    assert plan_recovery([0, 4, 6], [short, None, same]).sessions == [Continued(7, 0, 20, 51)]
    assert plan_recovery([0, 4, 6], [short, same, None]).sessions == [Continued(7, 0, 50, 51)]
    assert plan_recovery([0, 4], [[Held(7, 0, 50, 0, 50)], None]) is None
    ended = [Held(7, 0, 50, 50, 50), Held(0, 1, 30, 0, 30)]
    found = plan_recovery(
        [0, 4, 6], [ended, None, [Held(7, 0, 48, 48, 48), Held(0, 1, 31, 0, 31), Held(9, 2, 5, 5, 5)]]
    )
    assert found == Recovery([Continued(7, 0, 48, 50)], [4], [1, 2], 36)
