from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys

import pytest
from support.processes import running
from support.servers import serve, until

import ainet
from ainet.api.generate import PlacedStage, Text
from ainet.client.answer import Answer
from ainet.client.client import NodeClient
from ainet.daemon import runtime
from ainet.errors import AinetError, Busy, NodeNotRunning, NotFound, PeerUnreachable, StageLost, UsageError


@pytest.fixture
async def served(tmp_path, monkeypatch, jupyter_dirs):
    monkeypatch.setenv("AINET_DATA_DIR", str(tmp_path / "data"))
    async with serve(tmp_path) as found:
        yield found


@pytest.fixture
async def client(served):
    with await asyncio.to_thread(NodeClient.running, served.data_dir) as found:
        yield found


async def test_the_node_is_found_by_its_data_directory(served, monkeypatch):
    for named in (served.data_dir, str(served.data_dir), None):
        with await asyncio.to_thread(NodeClient.running, named) as client:
            status = await asyncio.to_thread(client.status)
            assert status.node.url == served.runtime.url


def test_no_node_says_how_to_start_one(tmp_path):
    with pytest.raises(NodeNotRunning, match=r"Start one with `ainet up` \(or open JupyterLab with ainet enabled\)\."):
        NodeClient.running(tmp_path)


async def test_a_proxy_of_the_environment_is_not_asked(served, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with NodeClient.running(served.data_dir) as client:
        assert (await asyncio.to_thread(client.status)).node.name == "double"


async def test_a_wrong_token_is_refused(served):
    with NodeClient(served.url, "wrong") as client:
        with pytest.raises(AinetError) as refused:
            await asyncio.to_thread(client.status)
        assert refused.value.code == "refused"
        assert served.url not in refused.value.message


async def test_news_are_heard_until_nobody_listens(served, client, monkeypatch):
    def listen():
        with contextlib.closing(client.watch("links")) as listening:
            return [next(listening).links.changed["a"].name for _ in range(3)]

    assert await asyncio.to_thread(listen) == ["0", "1", "2"]
    with pytest.raises(UsageError, match="no news of 'weather'"):
        await asyncio.to_thread(next, client.watch("weather"))
    monkeypatch.setattr("ainet.client.client.SILENCE", 0.2)
    with pytest.raises(NodeNotRunning):
        await asyncio.to_thread(lambda: list(client.watch("links")))


async def test_events_come_in_order_and_the_answer_is_whole(client):
    events = await asyncio.to_thread(lambda: list(client.generate("hi", max_tokens=3)))
    assert [event.event for event in events] == ["progress", "start", "text", "text", "text", "done"]
    answer = await asyncio.to_thread(client.ask, "hi", max_tokens=3)
    assert answer.to_dict() == {
        "text": "w0 w1 w2 ",
        "tokens": [0, 1, 2],
        "model": "words",
        "placement": [{"node": "double", "pid": 1, "first_layer": 0, "last_layer": 29}],
        "timings": {
            "prompt_tokens": 3,
            "reused_tokens": 0,
            "generated_tokens": 3,
            "first_token_s": 0.1,
            "tokens_per_s": 42.0,
        },
        "notes": [],
        "finish": "length",
        "seed": 7,
        "passages": [],
        "prompt": "",
        "citations": [],
        "bought": [],
    }
    assert answer.footer() == (
        "words · layers double 0–29 · 42.0 tokens/s · first token 0.10 s · stopped at the token limit"
    )


@pytest.mark.parametrize(
    ("stages", "where"),
    [
        ([("desk", 0, 0)], "desk 0"),
        ([("desk", 0, 9), ("tab", 10, 10), ("desk", 11, 29)], "desk 0–9, tab 10, desk 11–29"),
        ([("desk", n, n) for n in range(30)], "desk 0–29 in 30 stages"),
        ([("tab", 0, 3), ("desk", 4, 4), ("desk", 5, 29)], "tab 0–3, desk 4–29 in 2 stages"),
    ],
)
def test_the_footer_is_one_short_line(stages, where):
    placement = [PlacedStage(node, 1, first, last) for node, first, last in stages]
    answer = Answer(model="m", placement=placement, finish="stop")
    assert answer.footer() == f"m · layers {where} · first token 0.00 s"


async def test_a_models_path_is_sent_whole(served, client, tmp_path, monkeypatch):
    def sent(model):
        client.ask("hi", model=model, max_tokens=1)
        client.unload(model)
        client.plan(model)
        asked, (unloaded, planned) = served.node.requests[-1].model, [call[1] for call in served.node.calls[-2:]]
        assert asked == unloaded == planned
        return planned

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "blob").touch()
    (tmp_path / "smollm2").touch()
    for model, meant in {
        "x.gguf": f"{tmp_path}/x.gguf",
        "./x": f"{tmp_path}/x",
        "org/blob": f"{tmp_path}/org/blob",
        "~/x.gguf": f"{tmp_path}/home/x.gguf",
        "/x y.gguf": "/x y.gguf",
        "org/model:7b": "org/model:7b",
        "smollm2": "smollm2",
        "hf:org/repo/x.gguf": "hf:org/repo/x.gguf",
    }.items():
        assert await asyncio.to_thread(sent, model) == meant


async def test_options_that_are_not_given_are_not_sent(served, client):
    await asyncio.to_thread(client.ask, [{"role": "user", "content": "a"}], max_tokens=1, seed=None, top_k=5)
    (request,) = served.node.requests
    assert (request.max_tokens, request.top_k, request.seed) == (1, 5, None)
    assert request.messages[0].content == "a"


async def test_an_unknown_option_is_refused(client):
    with pytest.raises(UsageError, match="unknown field `frobnicate`"):
        await asyncio.to_thread(client.ask, "hi", frobnicate=1)


@pytest.mark.parametrize("when", ["early_error", "late_error"])
@pytest.mark.parametrize(
    "error",
    [Busy("Wait.", retry_after=3), StageLost("A worker died."), NotFound("No such model."), PeerUnreachable("Gone.")],
    ids=lambda error: error.code,
)
async def test_an_error_of_the_node_is_the_same_here(served, client, when, error):
    setattr(served.node, when, error)
    with pytest.raises(type(error)) as raised:
        await asyncio.to_thread(client.ask, "hi")
    assert raised.value.to_dict() == error.to_dict()
    setattr(served.node, when, None)
    assert (await asyncio.to_thread(client.ask, "hi", max_tokens=1)).finish == "length"


async def test_closing_the_generator_cancels_the_generation(served, client):
    def first_words():
        events = client.generate("hi")
        for event in events:
            if isinstance(event, Text):
                break
        assert served.node.generating == 1
        events.close()

    await asyncio.to_thread(first_words)
    await until(lambda: served.node.generating == 0)
    # The client is as good as new.
    assert (await asyncio.to_thread(client.status)).node.name == "double"


async def test_an_interrupt_keeps_what_has_come(served, client):
    def interrupted():
        answer = Answer()
        events = client.generate("hi")
        try:
            for event in events:
                answer.add(event)
                if len(answer.tokens) == 3:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            answer.cut_off()
        finally:
            events.close()
        return answer

    answer = await asyncio.to_thread(interrupted)
    assert answer.text == "w0 w1 w2 "
    assert answer.finish == "cancelled"
    assert answer.timings.generated_tokens == 3
    assert answer.timings.prompt_tokens == 3
    assert answer.timings.tokens_per_s > 0
    await until(lambda: served.node.generating == 0)


VANISHING = r"""
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
connection.recv(65536)
line = b'{"event": "text", "text": "a", "tokens": [1]}\n'
connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(line), line))
sys.stdin.read()
"""


def test_a_node_that_vanishes_is_an_error_not_a_hang():
    command = [sys.executable, "-c", VANISHING]
    with running(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}/"
        with NodeClient(url, "t") as client:
            events = client.generate("hi")
            assert next(events).text == "a"
            process.kill()
            with pytest.raises(NodeNotRunning, match=r"does not answer any more .*`ainet logs` may say why"):
                next(events)
            with pytest.raises(NodeNotRunning, match="does not answer any more"):
                client.status()


async def test_names_travel_whole(served, client):
    await asyncio.to_thread(client.remove, "Anna's phone/2 ü?#")
    await asyncio.to_thread(client.unload, "/home/a b/m.gguf")
    assert served.node.calls == [("remove", "Anna's phone/2 ü?#"), ("unload", "/home/a b/m.gguf")]


def test_a_real_node_answers(node_dir):
    with ainet.connect(node_dir) as client:
        answer = client.ask("Name a colour.", max_tokens=8, temperature=0.0)
        assert answer.finish in {"stop", "length"}
        assert answer.text.strip()
        assert len(answer.tokens) == answer.timings.generated_tokens <= 8
        again = client.ask("Name a colour.", max_tokens=8, temperature=0.0)
        assert again.tokens == answer.tokens
        assert answer.placement[0].node == "tester"
        assert answer.placement[0].first_layer == 0
        assert answer.placement[-1].last_layer == 29
        (member,) = client.status().members
        held = [worker.pid for worker in member.workers if worker.model]  # there may be a spare one
        assert held == [answer.placement[0].pid]
        with pytest.raises(NotFound):
            client.ask("hi", model="no-such-model")
        with pytest.raises(UsageError):
            client.ask("hi", temperature=-1.0)
        client.unload()
        assert client.status().pipelines == []
    assert runtime.find(node_dir) is not None
