"""The model API as its clients see it: forms, refusals, and what a closed connection ends."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import httpx
import pytest
from support.servers import JUPYTER_TOKEN, serve, until

from ainet.api import models
from ainet.api.answers import Answers
from ainet.api.generate import PromptScored, Start, Text
from ainet.api.logprobs import TokenLogprob
from ainet.api.models import ListedModel
from ainet.errors import (
    Busy,
    CannotSplit,
    ModelError,
    NodeNotRunning,
    NotEnough,
    NotFound,
    PromptTooLong,
    StageLost,
    UsageError,
)
from ainet.executor.request import MOST_TOKENS
from ainet.server.model_api.several import AT_ONCE

pytestmark = pytest.mark.usefixtures("own_jupyter")
HELLO = [{"role": "user", "content": "hi"}]
CHAT = {"model": "words", "messages": HELLO, "max_tokens": 3}


@pytest.fixture
async def served(tmp_path):
    async with serve(tmp_path) as found:
        yield found


@pytest.fixture
async def http(served):
    async with httpx.AsyncClient(base_url=f"{served.url}ainet/v1/", trust_env=False, headers=served.headers) as client:
        yield client


def chunks(text):
    """Return the data of a stream's events; the last one says that it is over."""
    events = [one.removeprefix("data: ") for one in text.split("\n\n") if one.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return [json.loads(one) for one in events[:-1]]


async def test_a_chat_is_answered_whole(served, http):
    answer = (await http.post("chat/completions", json=CHAT)).json()
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert choice["message"] == {"content": "w0 w1 w2 ", "role": "assistant", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert answer["ainet"]["placement"][0]["node"] == "double"
    assert answer["ainet"]["seed"] == 7
    (request,) = served.node.requests
    assert (request.model, request.max_tokens, request.raw) == ("words", 3, False)


async def test_a_chat_streams_as_it_grows(http):
    answer = await http.post("chat/completions", json=CHAT | {"stream": True})
    assert answer.headers["Content-Type"] == "text/event-stream"
    told = chunks(answer.text)
    assert len({one["id"] for one in told}) == 1
    assert {one["object"] for one in told} == {"chat.completion.chunk"}
    assert [one["choices"][0]["delta"] for one in told] == [
        {"role": "assistant", "content": ""},
        *({"content": f"w{n} "} for n in range(3)),
        {},
    ]
    assert [one["choices"][0]["finish_reason"] for one in told] == [None] * 4 + ["length"]
    assert all("usage" not in one for one in told)
    assert told[-1]["ainet"]["timings"]["tokens_per_s"] == 42.0


async def test_a_stream_counts_tokens_where_that_is_asked_for(http):
    asked = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    *told, last = chunks((await http.post("chat/completions", json=asked)).text)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 6
    assert all(one["usage"] is None for one in told)
    *told, last = chunks((await http.post("completions", json={"prompt": "a"} | asked)).text)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 3)


async def test_a_text_goes_on_whole_and_as_it_grows(served, http):
    asked = {"model": "words", "prompt": "Once", "max_tokens": 3, "stop": "\n"}
    answer = (await http.post("completions", json=asked)).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"text": "w0 w1 w2 ", "finish_reason": "length", "index": 0, "logprobs": None}]
    told = chunks((await http.post("completions", json=asked | {"stream": True, "prompt": ["Once"]})).text)
    assert [one["choices"][0]["text"] for one in told] == ["w0 ", "w1 ", "w2 ", ""]
    for request in served.node.requests:
        assert (request.messages[0].content, request.raw, request.stop) == ("Once", True, ["\n"])


async def test_all_that_changes_an_answer_reaches_the_node(served, http):
    asked = {
        "model": "words",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}], "name": "x"},
            {"role": "assistant", "content": None},
            {"role": "user", "content": "?"},
        ],
        "max_completion_tokens": 2,
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 11,
        "stop": ["a", "b"],
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {"5": -100},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "user": "somebody",
        "metadata": {"a": "b"},
        "store": True,
        "parallel_tool_calls": False,
        "tools": [],
        "n": 1,
        "ainet": {"stages": 2, "top_k": 7, "private": False, "context": "auto"},
    }
    assert (await http.post("chat/completions", json=asked)).status_code == 200
    (request,) = served.node.requests
    assert [(one.role, one.content) for one in request.messages] == [
        ("system", "Be brief."),
        ("user", "Hello"),
        ("assistant", ""),
        ("user", "?"),
    ]
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (2, 0.5, 0.9, 11)
    assert (request.stop, request.logit_bias, request.json_schema) == (["a", "b"], {5: -100.0}, {"type": "object"})
    assert (request.frequency_penalty, request.presence_penalty) == (0.5, -0.5)
    assert (request.stages, request.top_k, request.context) == (2, 7, "auto")
    served.node.early_error = NotFound("enough")
    await http.post("chat/completions", json={"messages": HELLO, "response_format": {"type": "json_object"}})
    request = served.node.requests[-1]
    assert (request.model, request.max_tokens, request.json_schema) == (None, MOST_TOKENS, {"type": "object"})


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": "x" * 1001}, "stop"),
        ({"temperature": "hot"}, "temperature"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": "hi"}, "messages"),
        ({"ainet": {"strangers": True}}, "ainet"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(served, http, more, param):
    for stream in (False, True):
        answer = await http.post("chat/completions", json=CHAT | more | {"stream": stream})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert set(error) == {"message", "type", "param", "code"}
    assert not served.node.requests


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt"),
        ({"prompt": [1, 2], "suffix": "b"}, "suffix"),
        ({"suffix": "b", "echo": True}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"best_of": 3}, "best_of"),
    ],
)
async def test_texts_that_cannot_go_on_are_refused_by_name(served, http, more, param):
    answer = await http.post("completions", json={"prompt": "a"} | more)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not served.node.requests


async def test_several_answers_have_numbers(served, http):
    asked = CHAT | {"n": 3, "seed": 5}
    answer = (await http.post("chat/completions", json=asked)).json()
    assert [one["index"] for one in answer["choices"]] == [0, 1, 2]
    assert all(one["message"]["content"] for one in answer["choices"])
    assert [request.seed for request in served.node.requests] == [5, 6, 7]
    # The prompt counts once.
    assert answer["usage"] | {"prompt_tokens_details": None} == {
        "prompt_tokens": 3,
        "completion_tokens": 9,
        "total_tokens": 12,
        "prompt_tokens_details": None,
    }
    told = chunks((await http.post("chat/completions", json=asked | {"stream": True})).text)
    for number in range(3):
        (own, finish) = zip(
            *[(c["delta"], c["finish_reason"]) for one in told for c in one["choices"] if c["index"] == number],
            strict=True,
        )
        assert own[0] == {"role": "assistant", "content": ""}
        assert finish == (*[None] * (len(own) - 1), "length")


async def test_several_prompts_go_on_in_their_order(served, http):
    asked = {"prompt": ["a", "b"], "max_tokens": 2, "n": 2, "best_of": 2}
    answer = (await http.post("completions", json=asked)).json()
    assert [one["index"] for one in answer["choices"]] == [0, 1, 2, 3]
    assert sorted(request.messages[0].content for request in served.node.requests) == ["a", "a", "b", "b"]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (6, 8)
    served.node.requests.clear()
    await http.post("completions", json={"prompt": [[1, 2], [3]], "max_tokens": 2})
    assert sorted(request.prompt for request in served.node.requests) == [[1, 2], [3]]
    assert not any(request.messages or request.raw for request in served.node.requests)


async def test_not_more_than_some_grow_at_the_same_time_and_one_reads_the_prompt_first(served, http):
    at_once, generate = [], served.node.generate

    async def counted(request):
        at_once.append((served.node.generating, request.messages[0].content, len(served.node.requests)))
        async for event in generate(request):
            yield event

    served.node.generate = counted
    await http.post("completions", json={"prompt": ["a", "b"], "n": 6, "max_tokens": 2})
    assert len(at_once) == 12
    assert max(running for running, *_ in at_once) == AT_ONCE - 1
    # The first two are those of the two prompts.
    assert {prompt for _, prompt, _ in at_once[:2]} == {"a", "b"}


async def test_the_failure_of_one_answer_is_that_of_the_request(served, http):
    served.node.late_error = StageLost("A stage was lost.")
    asked = {"prompt": ["a", "b"], "max_tokens": 9}
    assert (await http.post("completions", json=asked)).status_code == 500
    await until(lambda: served.node.generating == 0)
    text = (await http.post("completions", json=asked | {"stream": True})).text
    assert "A stage was lost." in text
    await until(lambda: served.node.generating == 0)


async def test_chats_tell_how_probable_their_tokens_were(served, http):
    asked = CHAT | {"logprobs": True, "top_logprobs": 2}
    (choice,) = (await http.post("chat/completions", json=asked)).json()["choices"]
    told = choice["logprobs"]["content"]
    assert [one["token"] for one in told] == ["w0 ", "w1 ", "w2 "]
    assert told[1] == {
        "token": "w1 ",
        "bytes": [119, 49, 32],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "w1 ", "bytes": [119, 49, 32], "logprob": -0.5},
            {"token": "bytes:\\xe2", "bytes": [226], "logprob": -1.5},
        ],
    }
    streamed = chunks((await http.post("chat/completions", json=asked | {"stream": True})).text)
    found = [one["choices"][0]["logprobs"] for one in streamed]
    assert [one for part in found if part for one in part["content"]] == told
    assert [request.logprobs for request in served.node.requests] == [2, 2]
    await http.post("chat/completions", json=CHAT | {"logprobs": True})
    assert served.node.requests[-1].logprobs == 0


async def test_texts_tell_how_probable_their_tokens_were(served, http):
    asked = {"prompt": "p0 p1 p2 ", "max_tokens": 2, "logprobs": 1}
    (choice,) = (await http.post("completions", json=asked)).json()["choices"]
    assert choice["logprobs"] == {
        "tokens": ["w0 ", "w1 "],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"w0 ": -0.5, "bytes:\\xe2": -1.5}, {"w1 ": -0.5, "bytes:\\xe2": -1.5}],
        "text_offset": [0, 3],
    }
    assert not served.node.requests[0].scores_prompt
    for prompt in ("p0 p1 p2 ", [0, 1, 2]):
        echoed = asked | {"prompt": prompt, "echo": True}
        (whole,) = (await http.post("completions", json=echoed)).json()["choices"]
        assert whole["text"] == "p0 p1 p2 w0 w1 "
        assert whole["logprobs"]["tokens"] == ["p0 ", "p1 ", "p2 ", "w0 ", "w1 "]
        assert whole["logprobs"]["text_offset"] == [0, 3, 6, 9, 12]
        parts = [
            one["choices"][0] for one in chunks((await http.post("completions", json=echoed | {"stream": True})).text)
        ]
        assert "".join(one["text"] for one in parts) == whole["text"]
        for name, told in whole["logprobs"].items():
            assert [one for part in parts if part["logprobs"] for one in part["logprobs"][name]] == told
        # Of the prompt alone.
        (alone,) = (await http.post("completions", json=echoed | {"max_tokens": 0})).json()["choices"]
        assert alone["text"] == "p0 p1 p2 "
        assert alone["logprobs"]["tokens"] == ["p0 ", "p1 ", "p2 "]
        assert served.node.requests[-1].max_tokens == 1
        body = (await http.post("completions", json=echoed | {"max_tokens": 0})).json()
        assert body["usage"]["completion_tokens"] == 0


async def test_a_prompt_that_is_scored_anew_is_told_once(served, http):
    generate = served.node.generate

    async def twice(request):
        async for event in generate(request):
            yield event
            if isinstance(event, PromptScored):
                yield dataclasses.replace(event, logprobs=event.logprobs[:2])
                yield dataclasses.replace(event, begin=2, logprobs=event.logprobs[2:])

    served.node.generate = twice
    asked = {"prompt": [0, 1, 2], "max_tokens": 1, "logprobs": 1, "echo": True, "stream": True}
    parts = [one["choices"][0] for one in chunks((await http.post("completions", json=asked)).text)]
    assert "".join(one["text"] for one in parts) == "p0 p1 p2 w0 "
    assert [offset for one in parts if one["logprobs"] for offset in one["logprobs"]["text_offset"]] == [0, 3, 6, 9]


@pytest.mark.parametrize(
    ("prompt", "pieces", "offsets"),
    [
        ("é a", [b"\xc3", b"\xa9", b" a"], [0, 0, 1]),
        ("a b", [b"<s>", b" a", b" b"], [0, 0, 1]),
        ("<|x|>a", [b"<s>", b"<|x|>", b"a"], [0, 0, 5]),
    ],
    ids=["a part of a character", "a space in front", "a control token"],
)
async def test_offsets_are_places_in_the_text(served, http, prompt, pieces, offsets):
    generate = served.node.generate

    async def scored(request):
        async for event in generate(request):
            if isinstance(event, PromptScored):
                told = [TokenLogprob(n, piece, -1.0) for n, piece in enumerate(pieces)]
                # Whatever pieces come together.
                yield PromptScored(begin=0, logprobs=told[:1])
                yield PromptScored(begin=1, logprobs=told[1:])
            else:
                yield event

    served.node.generate = scored
    asked = {"max_tokens": 1, "logprobs": 0, "echo": True, "stream": True}
    for given, text in ((prompt, prompt), ([1, 2, 3], b"".join(pieces).decode())):
        parts = [
            one["choices"][0] for one in chunks((await http.post("completions", json=asked | {"prompt": given})).text)
        ]
        assert "".join(one["text"] for one in parts) == text + "w0 "
        found = [offset for one in parts if one["logprobs"] for offset in one["logprobs"]["text_offset"]]
        assert found[-1] == len(text)
        if given == prompt:
            assert found[:-1] == offsets


async def test_an_answer_for_which_there_is_no_room_waits_for_those_beside_it(served, http):
    generate = served.node.generate
    refused = []

    async def crowded(request):
        if served.node.generating:
            refused.append(request)
            raise Busy("This pipeline is busy.", retry_after=3)
        async for event in generate(request):
            yield event

    served.node.generate = crowded
    answer = await http.post("completions", json={"prompt": ["a", "b", "c"], "max_tokens": 2})
    assert [one["text"] for one in answer.json()["choices"]] == ["w0 w1 "] * 3
    assert 0 < len(refused) < 9
    served.node.generating = 1  # somebody else's
    answer = await http.post("completions", json={"prompt": ["a", "b", "c"], "max_tokens": 2})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3")
    served.node.generating = 0


def lists(served, *names):
    """Have the node list models."""

    async def known():
        return [ListedModel(name=name, where="ainet", members=[], cuts="any") for name in names]

    served.node.answers = Answers()
    served.node.answers.add(models.models, known)


async def test_a_key_opens_the_model_api_and_nothing_else(served, http):
    lists(served, "words")
    key = (await served.node.access_keys.create("phone")).key
    root = served.url.rstrip("/")
    async with httpx.AsyncClient(trust_env=False) as client:
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-Api-Key": key}):
            answer = await client.post(f"{root}/ainet/v1/chat/completions", json=CHAT, headers=headers)
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["content"] == "w0 w1 w2 "
            for path in (
                "api/contents",
                "api/kernels",
                "api/status",
                "api/me",
                "ainet/api/status",
                "ainet/api/access-keys",
            ):
                refused = await client.get(f"{root}/{path}", headers=headers)
                assert refused.status_code in (302, 403), path
            for path in ("ainet/api/generate", "ainet/api/access-keys", "api/terminals"):
                assert (await client.post(f"{root}/{path}", json={}, headers=headers)).status_code == 403, path
        (found,) = await served.node.access_keys.known()
        assert found.used_today == 2 * (3 + 3)
        await served.node.access_keys.revoke("phone")
        answer = await client.post(f"{root}/ainet/v1/chat/completions", json=CHAT, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_what_a_key_does_not_open_has_the_form_of_the_api(served, http):
    lists(served, "words", "llama")
    other = (await served.node.access_keys.create("other")).key
    # Files and downloads are no models of the list.
    for model in ("/etc/passwd", "~/x.gguf", "hf:ORG/REPO/FILE.gguf", "x" * 100_000):
        answer = await http.post(
            "chat/completions",
            json=CHAT | {"model": model},
            headers={"X-Api-Key": other, "Authorization": f"Bearer {other}"},
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert len(answer.text) < 1000
    key = (await served.node.access_keys.create("phone", models=["words"], tokens_per_day=8)).key
    headers = {"Authorization": f"Bearer {key}"}
    for more, status, kind in (
        ({"model": "llama"}, 404, "invalid_request_error"),
        ({"ainet": {"context": "auto"}}, 403, "permission_error"),
        ({"ainet": {"seller": "ana"}}, 403, "permission_error"),
    ):
        answer = await http.post("chat/completions", json=CHAT | more, headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert not served.node.requests
    answer = await http.post("chat/completions", json=CHAT | {"max_tokens": 100}, headers=headers)
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert answer.json()["usage"]["total_tokens"] == 8
    answer = await http.post("chat/completions", json=CHAT, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(answer.headers["Retry-After"]) > 0


async def test_what_is_left_of_a_quota_goes_to_the_first_answers(served, http):
    lists(served, "words")
    key = (await served.node.access_keys.create("phone", tokens_per_day=20)).key
    headers = {"Authorization": f"Bearer {key}"}
    asked = {"prompt": ["a"] * 8, "max_tokens": 3}
    answer = await http.post("completions", json=asked, headers=headers)
    assert answer.status_code == 200
    choices = answer.json()["choices"]
    assert [one["index"] for one in choices] == list(range(8))
    assert {one["finish_reason"] for one in choices} == {"length"}
    assert choices[-1]["text"] == ""
    assert (await http.post("completions", json=asked, headers=headers)).status_code == 429


async def test_while_the_node_starts_a_key_is_told_to_come_back(served, http):
    served.extension.served.node, node = None, served.node
    try:
        answer = await http.post("chat/completions", json=CHAT, headers={"Authorization": "Bearer ainet-whatever"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
    finally:
        served.extension.served.node = node


async def test_a_key_lists_the_models_that_it_opens(served, http):
    lists(served, "words", "llama")
    key = (await served.node.access_keys.create("phone", models=["Words"])).key
    headers = {"Authorization": f"Bearer {key}"}
    assert [one["id"] for one in (await http.get("models", headers=headers)).json()["data"]] == ["words"]
    assert (await http.get("models/llama", headers=headers)).status_code == 404
    assert len((await http.get("models")).json()["data"]) == 2


async def test_an_echo_repeats_the_prompt(served, http):
    (choice,) = (await http.post("completions", json={"prompt": "Once ", "max_tokens": 1, "echo": True})).json()[
        "choices"
    ]
    assert (choice["text"], choice["logprobs"]) == ("Once w0 ", None)
    assert not served.node.requests[0].scores_prompt
    asked = {"prompt": [0, 1, 2], "max_tokens": 1, "echo": True, "stream": True}
    parts = [one["choices"][0] for one in chunks((await http.post("completions", json=asked)).text)]
    assert "".join(one["text"] for one in parts) == "p0 p1 p2 w0 "
    assert not any(one["logprobs"] for one in parts)


async def test_a_suffix_goes_along(served, http):
    await http.post("completions", json={"prompt": "", "suffix": "end", "max_tokens": 1})
    (request,) = served.node.requests
    assert (request.messages[0].content, request.suffix, request.raw) == ("", "end", True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFound("No model is called 'x'."), (404, "model_not_found", "model", None)),
        (
            PromptTooLong("The prompt has 9 tokens.", prompt_tokens=9),
            (400, "context_length_exceeded", "messages", None),
        ),
        (UsageError("temperature is 200; it must lie between 0 and 100."), (400, None, "temperature", None)),
        (Busy("The queue is full.", retry_after=7.4), (429, "rate_limit_exceeded", None, "7")),
        (NodeNotRunning("The node is still starting."), (503, "loading", None, "5")),
        (NotEnough("There is no memory."), (503, "no_memory", None, "5")),
        (StageLost("A stage was lost."), (500, None, None, None)),
        (ModelError("It does not begin with 'GGUF'."), (400, "model_unusable", "model", None)),
        (CannotSplit("30 layers are no 99 stages."), (400, None, "ainet.stages", None)),
        (UsageError("The JSON schema is none."), (400, None, "response_format", None)),
        (RuntimeError("secret detail"), (500, None, None, None)),
    ],
)
async def test_failures_have_their_own_form(served, http, error, expected):
    served.node.early_error = error
    for stream in (False, True):
        answer = await http.post("chat/completions", json=CHAT | {"stream": stream})
        found = answer.json()["error"]
        assert (answer.status_code, found["code"], found["param"], answer.headers.get("Retry-After")) == expected
        assert "secret" not in answer.text
    served.node.early_error, served.node.late_error = None, error
    told = chunks((await http.post("chat/completions", json=CHAT | {"max_tokens": 9, "stream": True})).text)
    assert told[-1]["error"]["code"] == expected[1]
    assert "secret" not in json.dumps(told[-1])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"messages": [{"role": "user"',
        b'{"messages": [], "tools": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "x"}], "seed": 1e400}',
        b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 99999999999999999999}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    ],
)
async def test_what_is_no_request_is_refused(served, http, body):
    for path in ("chat/completions", "completions"):
        answer = await http.post(path, content=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not served.node.requests
    answer = await http.post("chat/completions", content=b'{"model": "words"}')
    assert answer.json()["error"]["param"] == "messages"
    answer = await http.post(f"{served.url}ainet/api/generate", content=b'{"messages": ' + b"[" * 5000)
    assert answer.status_code == 400


async def test_a_stream_that_waits_says_that_it_lives(served, http, monkeypatch):
    monkeypatch.setattr("ainet.server.model_api.handlers.ALIVE", 0.05)
    generate = served.node.generate

    async def slow(request):
        await asyncio.sleep(0.3)
        async for event in generate(request):
            yield event

    monkeypatch.setattr(served.node, "generate", slow)
    answer = await http.post("chat/completions", json=CHAT | {"stream": True})
    assert answer.text.startswith(": one moment\n\n")
    assert len(chunks(answer.text)) == 5


async def test_biases_reach_the_node_by_its_own_route_too(served, http):
    asked = {"messages": HELLO, "max_tokens": 1, "logit_bias": {"5": -100}}
    answer = await http.post(f"{served.url}ainet/api/generate", json=asked)
    assert answer.status_code == 200
    assert served.node.requests[-1].logit_bias == {5: -100.0}


async def test_who_has_no_key_hears_so_in_json(served, http):
    del http.headers["Authorization"]
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        for path, method in (("models", "GET"), ("chat/completions", "POST"), ("completions", "POST")):
            answer = await http.request(method, path, headers=headers, json=CHAT if method == "POST" else None)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
    as_user = {"Authorization": f"Bearer {JUPYTER_TOKEN}"}
    assert (await http.post("chat/completions", json=CHAT, headers=as_user)).status_code == 200
    assert (await http.get("chat/completions", headers=served.headers)).status_code == 405


@pytest.mark.parametrize("stream", [False, True])
async def test_a_closed_connection_ends_the_answer(served, http, stream):
    asked = {"messages": HELLO, "stream": stream}
    if stream:
        async with http.stream("POST", "chat/completions", json=asked) as answer:
            await anext(answer.aiter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("chat/completions", json=asked, timeout=0.3)
    assert len(served.node.requests) == 1
    await until(lambda: served.node.generating == 0)


@pytest.mark.parametrize("path", ["v1/chat/completions", "api/generate"])
async def test_who_does_not_read_keeps_nothing_busy(served, monkeypatch, path):
    ended = asyncio.Event()

    async def much(request):
        yield Start(model="words", placement=[], prompt_tokens=1)
        for _ in range(100):
            yield Text(text="x" * 200_000, tokens=[1])
            await asyncio.sleep(0)
        ended.set()

    monkeypatch.setattr(served.node, "generate", much)
    url = httpx.URL(served.url)
    body = json.dumps({"messages": HELLO} | ({"stream": True} if "chat" in path else {})).encode()
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=1024)
    lines = [f"POST {url.path}ainet/{path} HTTP/1.1", f"Host: {url.host}:{url.port}"]
    lines += [f"Authorization: {served.headers['Authorization']}", f"Content-Length: {len(body)}", "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    async with asyncio.timeout(20):
        assert b" 200 " in await reader.readline()
        await ended.wait()
    writer.close()


async def test_the_models_are_listed(served, http):
    known = [
        ListedModel(name="small", where="here", members=[]),
        ListedModel(name="no", where="", members=[], error="x"),
    ]

    async def listed():
        return known

    served.node.answers._answers[models.models] = listed
    answer = (await http.get("models")).json()
    assert [(one["id"], one["object"]) for one in answer["data"]] == [("small", "model")]
    assert (await http.get("models/small")).json()["id"] == "small"
    answer = await http.get("models/a%2Fb")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
