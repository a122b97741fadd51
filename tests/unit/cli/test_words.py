"""What people read of what a node says."""

from __future__ import annotations

import argparse
import dataclasses
import re

from support.views import node_state

from ainet.api.generate import PlacedStage
from ainet.api.models import ListedModel, Plan, PlannedStage
from ainet.api.node import CertificateState, MemberWorkers, NodeStatus, PipelineStatus, WorkerState
from ainet.cli.commands.models import model_words, plan_words
from ainet.cli.commands.node import status_words

NO_OPTIONS = argparse.Namespace()
NODE = node_state()
MEMBER = MemberWorkers("abc", "desk", [], True, 0.0, 60.0, True, True, workers=[WorkerState(7, 1000, "tiny", [4, 4])])
STATUS = NodeStatus(
    NODE, [MEMBER], [PipelineStatus("tiny", [PlacedStage("desk", 7, n, n) for n in range(30)], {}, True, [])]
)


def test_the_status_of_a_device_that_cannot_work_with_others_is_still_a_table():
    assert "certificate: 60 days left" in status_words(STATUS, NO_OPTIONS)
    for days, word in ((60.0, "removed"), (-3.0, "expired")):
        problem = "This device cannot go on. To work with the others again, run `ainet invite` there."
        node = dataclasses.replace(NODE, certificate=CertificateState(days, True, problem))
        text = status_words(dataclasses.replace(STATUS, node=node), NO_OPTIONS)
        facts, *_, last = text.split("\n\n")
        assert facts.splitlines()[-1] == f"certificate: {word} · data: /data"
        assert last == problem


def test_a_member_without_workers_is_a_row():
    member = dataclasses.replace(MEMBER, is_self=False, workers=[])
    text = status_words(dataclasses.replace(STATUS, members=[member]), NO_OPTIONS)
    assert re.search(r"^desk +connected +– +– +–$", text, re.MULTILINE)


def test_layers_are_shown_as_short_as_they_can_be():
    text = status_words(STATUS, NO_OPTIONS)
    assert re.search(r" tiny 4$", text, re.MULTILINE)
    assert text.endswith("tiny: desk 0–29 in 30 stages")
    stage = PlannedStage(
        node="abc", name="desk", first_layer=0, last_layer=0, memory=1, threads=1, gpu=False, reason="all"
    )
    plan = Plan(model="m", name="m", n_ctx=8, n_ubatch=8, stages=[stage], why="", seconds=1.0)
    assert re.search(r"^desk +0 +1 B  all$", plan_words(plan), re.M)


def test_models_of_members_are_shown_with_who_has_them():
    alone = ListedModel(name="a", where="package", members=[])
    assert "members" not in model_words([alone], NO_OPTIONS)
    more = [
        ListedModel(name="b", where="ainet", members=["desk", "tab"]),
        ListedModel(name="c", where="on tab", members=[]),
    ]
    lines = model_words([alone, *more], NO_OPTIONS).splitlines()
    assert lines[0].endswith("where    members")
    assert [line.split()[-1] for line in lines[2:]] == ["–", "tab", "–"]
    assert lines[3].endswith("ainet    desk, tab")
