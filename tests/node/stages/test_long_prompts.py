"""Prompts that are longer than what the sockets between stages hold."""

from __future__ import annotations

import logging
import queue
import socket
import threading

import msgspec
import pytest
from support.tiny_models import write_model
from support.whole_stage import EPOCH
from support.workshop import GREEDY, ask

from ainet.identity.identity import Identity
from ainet.models.shards import ShardStore
from ainet.models.tensors import TensorStore
from ainet.stages.protocol.generation import Done, Failed, Resume, Text
from ainet.stages.protocol.spec import StageSpec
from ainet.stages.ring.frames import RingListener, connect
from ainet.stages.stage import Stage

N_CTX = 60_000
N_PROMPT = 5_000
SESSIONS = 12


@pytest.fixture
def ring(tmp_path, monkeypatch):
    """Two stages in this process, between which little is on its way."""

    def narrow(sock):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 32_768)

    monkeypatch.setattr("ainet.stages.ring.frames.tune", narrow)
    path = write_model(tmp_path / "tiny.gguf", "llama", 2, metadata={"context_length": N_CTX})
    credentials = (identity := Identity.open(tmp_path / "node", "node")).local_credentials()
    with TensorStore(tmp_path / "store") as store:
        manifest = store.register(path, name="tiny")
        stages = []
        for layer in (0, 1):
            spec = StageSpec(
                pipeline="p",
                epoch=EPOCH,
                owner="o",
                model=manifest.digest,
                first_layer=layer,
                last_layer=layer,
                n_stages=2,
                n_ctx=N_CTX,
                n_ubatch=1024,
                threads=1,
                gpu=False,
                sessions=SESSIONS,
                queue=SESSIONS,
            )
            shard = ShardStore(store).assemble(manifest, layer, layer)
            stages.append(Stage(spec, shard, logging.getLogger("stage")))
        ends = []
        for stage in stages:  # the way into it
            listener, found = RingListener(credentials, "127.0.0.1", print), []
            accepting = threading.Thread(
                target=lambda listener=listener, found=found, most=stage.max_payload: found.append(
                    listener.accept(identity.id, EPOCH, most)
                )
            )
            accepting.start()
            sender = connect(credentials, ("127.0.0.1", listener.port), identity.id, EPOCH, stage.max_payload)
            accepting.join()
            ends.append((sender, found[0]))
        (to_first, into_first), (to_last, into_last) = ends
        stages[0].start(into_first, to_last)
        stages[1].start(into_last, to_first)
        yield stages
        for stage in stages:
            stage.stop()


def test_stages_do_not_wait_for_each_other_in_a_circle(ring):
    events: queue.Queue = queue.Queue()
    last = ring[1]
    requests = []
    for session in range(1, SESSIONS + 1):
        prompt = [1, *[3 + (session * i) % 200 for i in range(N_PROMPT)]]
        resume = Resume(prompt, [], [])
        request = msgspec.structs.replace(
            ask(GREEDY, 2), session=session, user=str(session), messages=[], resume=resume
        )
        requests.append(request)
    last.inbox.put(lambda: [last.head.open(request, events.put) for request in requests])
    done, tokens = set(), 0
    while len(done) < SESSIONS:
        match events.get(timeout=100):
            case Done(session=session):
                done.add(session)
            case Text() as text:
                tokens += len(text.tokens)
            case Failed() as failed:
                raise AssertionError(failed)
    assert tokens == 2 * SESSIONS
