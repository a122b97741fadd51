"""Sessions go on when stages of their pipeline are replaced: only new ones compute again, and the text is the same."""

from __future__ import annotations

import time

import msgspec
import pytest
from support.tiny_pipeline import CHUNK, N_CTX, N_PROMPT, N_STAGES, TOKENS, Pipeline
from support.workshop import GREEDY, ask

from ainet.stages.protocol.generation import Resume
from ainet.stages.protocol.recovery import Continued, Held, Recovery, plan_recovery
from ainet.stages.stage import Stage
from ainet.timing import Timing


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
