"""Three real Jupyter servers on this machine, joined by tickets; only the first sees the model file."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest
from support.nodes import alive
from support.smollm2 import one_process
from support.three_nodes import NAMES, Swarm, wait_for

from ainet.api.generate import Start, Text
from ainet.client.client import NodeClient
from ainet.errors import CannotSplit, NotFound
from ainet.stages.protocol.sampling_params import SamplingParams

QUESTION = "Tell me about rain."
GREEDY = SamplingParams(temperature=0)


@pytest.fixture(scope="module")
def swarm(jupyter_dirs, tmp_path_factory):
    swarm = Swarm(tmp_path_factory.mktemp("swarm"))
    try:
        for name in NAMES:
            swarm.start(name)
        for name in NAMES[1:]:
            swarm.join(name)
        for name in NAMES:
            swarm.wait_until_connected(name, 3)
        yield swarm
        families = [swarm.family(name) for name in swarm.nodes]
    finally:
        for name in list(swarm.nodes):
            swarm.down(name)
    assert not [process for family in families for process in alive(family)]


def nodes_of(answer) -> list[str]:
    return [part.node for part in answer.placement]


def test_three_devices_answer_as_one_process_does(swarm, smollm2_path, smollm2_manifest):
    answer = swarm.nodes["desk"].ask(QUESTION, stages=3, temperature=0.0, max_tokens=48)
    assert (answer.tokens, answer.text) == one_process(smollm2_path, QUESTION, GREEDY, 48)
    assert nodes_of(answer) == list(NAMES)

    # Each other node received the tensors of its layers, and holds no whole model.
    for part in answer.placement[1:]:
        name = part.node
        wanted = sum(
            tensor.nbytes
            for tensor in smollm2_manifest.shard_tensors(part.first_layer, part.last_layer)
            if tensor.name != "tokenizer"
        )
        received = swarm.nodes[name].status().node.received_bytes
        assert received == pytest.approx(wanted, rel=0.02)
        kept = sum(file.stat().st_size for file in (swarm.folder / name).rglob("*") if file.is_file())
        assert kept < 0.75 * smollm2_path.stat().st_size


def test_a_second_question_moves_nothing(swarm):
    before = {name: swarm.nodes[name].status().node.received_bytes for name in NAMES}
    swarm.nodes["desk"].ask("And snow?", stages=3, temperature=0.0, max_tokens=4)
    assert {name: swarm.nodes[name].status().node.received_bytes for name in NAMES} == before


def test_a_device_without_the_file_may_ask(swarm, smollm2_path):
    answer = swarm.nodes["tablet"].ask(QUESTION, stages=3, temperature=0.0, max_tokens=24)
    assert answer.tokens == one_process(smollm2_path, QUESTION, GREEDY, 24)[0]
    assert nodes_of(answer)[0] == "tablet"
    swarm.nodes["tablet"].unload()


def test_status_shows_who_holds_which_layers(swarm):
    placement = swarm.nodes["desk"].ask("Hi", stages=3, max_tokens=2).placement
    members = swarm.nodes["desk"].status().members
    held = {(member.name, *worker.layers) for member in members for worker in member.workers}
    assert held >= {(part.node, part.first_layer, part.last_layer) for part in placement}
    assert all(worker.memory > 10e6 for member in members for worker in member.workers)


def test_closing_the_stream_stops_every_stage(swarm):
    client = swarm.nodes["desk"]

    def decodes():
        """Return how many micro-batches each stage has computed."""
        [stages] = [one.stages for one in client.status().pipelines if len(one.placement) == 3]
        assert len(stages) == 3
        return [stage.decodes for stage in stages]

    client.ask("Hi", stages=3, max_tokens=2)
    before = decodes()
    events = client.generate(QUESTION, stages=3, max_tokens=900, grammar="root ::= [a-z ] root")
    for event in events:
        if isinstance(event, Text):
            break
    events.close()

    def stand_still():
        now = decodes()
        time.sleep(1)
        return decodes() == now

    wait_for(stand_still)
    assert all(0 < now - early < 450 for now, early in zip(decodes(), before, strict=True))  # not for want of tokens
    assert len(client.ask("Hi", stages=3, max_tokens=2).tokens) == 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_an_answer_outlives_a_worker_of_another_device(swarm, smollm2_path, how):
    client = swarm.nodes["desk"]
    events = client.generate(QUESTION, stages=3, temperature=0.0, max_tokens=100)
    pid = next(event for event in events if isinstance(event, Start)).placement[1].pid
    next(event for event in events if isinstance(event, Text))
    os.kill(pid, how)
    done = list(events)[-1]
    assert done.event == "done", swarm.logs()
    assert (done.tokens, done.text) == one_process(smollm2_path, QUESTION, GREEDY, 100)
    assert pid not in [part.pid for part in done.placement]
    wait_for(lambda: not psutil.pid_exists(pid))


def test_a_plan_says_where_and_why_before_anything_loads(swarm):
    plan = swarm.nodes["laptop"].plan("smollm2", 3)
    assert [stage.name for stage in plan.stages] == ["laptop", "desk", "tablet"]
    assert "3 stages were asked for" in plan.why
    with pytest.raises(CannotSplit, match="at most 30 stages, not 40"):
        swarm.nodes["desk"].plan("smollm2", 40)
    with pytest.raises(NotFound, match="None of the 2 members that can be reached has it"):
        swarm.nodes["desk"].plan("no-such-model")


def test_a_dask_client_runs_on_lent_workers_of_every_device(swarm):
    from distributed import Client

    from ainet.engine.certificates import DaskCredentials

    opened = swarm.nodes["desk"].open_client()
    try:
        assert {worker.node for worker in opened.workers} == set(NAMES)
        stages = {worker.pid for m in swarm.nodes["desk"].status().members for worker in m.workers}
        with Client(opened.address, security=DaskCredentials(**vars(opened.tls)).security()) as client:
            client.wait_for_workers(3, timeout=30)
            pids = set(client.run(os.getpid).values())
        assert len(pids) == 3
        assert not pids & stages
    finally:
        swarm.nodes["desk"].close_client(opened.id)
    wait_for(lambda: not [pid for pid in pids if psutil.pid_exists(pid)])


def test_a_dead_requester_frees_the_stages_of_the_others(swarm):
    """Kill -9 of the asking server: its own processes end, and the others unload what it had."""
    laptop = swarm.nodes["laptop"]
    laptop.ask("Hi", stages=3, max_tokens=2)
    family = swarm.family("laptop")
    reserved = swarm.nodes["tablet"].status().node.reserved.memory
    assert reserved > 0
    swarm.nodes["desk"].unload()
    swarm.nodes.pop("laptop").close()
    os.kill(family[0].pid, signal.SIGKILL)
    wait_for(lambda: not alive(family))
    wait_for(lambda: swarm.nodes["tablet"].status().node.reserved.memory == 0)
    swarm.start("laptop")
    swarm.wait_until_connected("desk", 3)


def test_a_removed_member_is_cut_off_and_works_alone(swarm):
    desk, tablet = swarm.nodes["desk"], swarm.nodes["tablet"]
    events = desk.generate(QUESTION, stages=3, max_tokens=200, grammar="root ::= [a-z ] root")
    start = next(event for event in events if isinstance(event, Start))
    assert "tablet" in [part.node for part in start.placement]
    next(events)
    with NodeClient.running(swarm.folder / "desk") as owner:  # the other one is listening to the answer
        owner.remove("tablet")
    done = list(events)[-1]
    assert (done.finish, {part.node for part in done.placement}) == ("length", {"desk", "laptop"})
    for name in ("desk", "laptop"):
        wait_for(lambda name=name: {member.name for member in swarm.nodes[name].members()} == {"desk", "laptop"})
    assert "was removed from the swarm" in tablet.status().node.certificate.problem
    assert "tablet" not in nodes_of(desk.ask("Hi", stages=3, max_tokens=2))
    # It still has its tensors. Which ones depends on how fast each device was found to be: those of every layer answer
    # alone; with fewer it says so, and goes on.
    if "all layers" in next(model.where for model in tablet.models() if model.name == "smollm2"):
        assert nodes_of(tablet.ask("Hi", max_tokens=2)) == ["tablet"]
    else:
        with pytest.raises(NotFound, match="No member that can be reached has smollm2"):
            tablet.ask("Hi", max_tokens=2)
    assert tablet.status().node.name == "tablet"
