"""What people read of what a node says."""

from __future__ import annotations

import argparse
import dataclasses
import re

import pytest
from support.views import node_state

from ainet.api.access_keys import AccessKey, NewKey
from ainet.api.generate import Done, GenerateRequest, Message, PlacedStage, Progress, Start, Text, Timings
from ainet.api.models import ListedModel, ModelSettings, Plan, PlannedStage
from ainet.api.node import CertificateState, MemberWorkers, NodeStatus, PipelineStatus, WorkerState
from ainet.cli.commands.access_keys import created
from ainet.cli.commands.access_keys import listed as listed_keys
from ainet.cli.commands.ask import sampling
from ainet.cli.commands.models import model_details, model_words, plan_words
from ainet.cli.commands.node import status_words
from ainet.cli.subcommands import build_parser
from ainet.client.answer import Answer
from ainet.errors import UsageError
from ainet.executor.request import to_open
from ainet.units import parse_days

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
        assert facts.splitlines()[-1] == f"certificate: {word} · data: /data · callback: native"
        assert last == problem


def test_a_member_without_workers_is_a_row():
    member = dataclasses.replace(MEMBER, is_self=False, workers=[])
    text = status_words(dataclasses.replace(STATUS, members=[member]), NO_OPTIONS)
    assert re.search(r"^desk +connected +– +– +–$", text, re.MULTILINE)


def test_a_key_is_shown_once_with_what_it_opens():
    plain = AccessKey("phone", 0.0, None, [], None, False, 12, None)
    assert created(NewKey("ainet-abc", plain)).startswith("ainet-abc\n\nThis key of phone opens all models, and is not")
    narrow = AccessKey("guest", 0.0, 86400.0, ["a", "b"], 500, True, 20, 90000.0)
    assert re.search(r"opens a, b for 500 tokens a day until 1970-01-0\d \d\d:\d\d, and", created(NewKey("x", narrow)))
    _, _, *rows = listed_keys([plain, narrow]).splitlines()
    assert re.match(r"phone +all models +12 +no +never +never", rows[0])
    assert re.match(r"guest +a, b +20 of 500 +yes +1970", rows[1])
    assert "ainet keys create" in listed_keys([])


@pytest.mark.parametrize("text", ["0d", "3651d", "30", "30m", "d", "1.5d", "-1d"])
def test_times_of_keys_are_hours_or_days(text):
    with pytest.raises(UsageError, match="at most 3650d, such as 30d"):
        parse_days(text)
    assert (parse_days("30d"), parse_days(" 12 h ")) == (30 * 86400, 12 * 3600)


def test_layers_are_shown_as_short_as_they_can_be():
    text = status_words(STATUS, NO_OPTIONS)
    assert re.search(r" tiny 4$", text, re.MULTILINE)
    assert text.endswith("tiny: desk 0–29 in 30 stages")
    stage = PlannedStage(
        node="abc", name="desk", first_layer=0, last_layer=0, memory=1, threads=1, gpu=False, reason="all"
    )
    plan = Plan(model="m", name="m", n_ctx=8, n_ubatch=8, stages=[stage], why="", seconds=1.0)
    assert re.search(r"^desk +0 +1 B  all$", plan_words(plan), re.M)


def listed(name, **given):
    return ListedModel(**{"name": name, "where": "ainet", "members": [], "cuts": "any", **given})


def test_models_of_members_are_shown_with_who_has_them():
    lines = model_words([listed("a"), listed("b", where="on desk, tab", members=["desk", "tab"])]).splitlines()
    assert lines[2].endswith("ainet")
    assert lines[3].endswith("on desk, tab")


@pytest.mark.parametrize("length", [8, 40, 52, 70, 200])
def test_a_list_of_models_fits_a_terminal(length):
    models = [
        listed("smollm2", size=98_000_000, architecture="llama", quantisation="Q4_1", layers=30, licence="apache-2.0"),
        listed("m" * length, architecture="a-very-long-architecture", quantisation="IQ2_XXS", layers=128),
        listed("whole", cuts="no: splitting the architecture 'baichuan' was not verified, so it runs on one device"),
        listed("broken", where="Hugging Face cache (org/a-long-name-of-a-repository)", error="It is cut off at 7."),
    ]
    text = model_words(models)
    table = text.partition("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 100
    assert len(table) == 2 + len(models)
    assert ("m" * length in text) == (length < 60)  # names are typed
    assert "damaged" in table[5]
    assert text.endswith("ainet models NAME")
    assert "baichuan" in model_details(models[2])
    assert "It is cut off at 7." in model_details(models[3])


def test_all_that_is_known_of_a_model_is_told_on_demand():
    settings = ModelSettings(
        system="Talk like\na pirate.", template="{{ .Prompt }}", parameters={"stop": ["<end>"]}, notes=["one note"]
    )
    text = model_details(listed("pirate:latest", path="/models/x", licence="MIT", settings=settings))
    for part in ("pirate:latest", "/models/x", "MIT", 'stop ["<end>"]', "one note", "{{ .Prompt }}", "can be cut"):
        assert part in text
    assert "Talk like\n                a pirate." in text


def answer(*events):
    found = Answer()
    for event in events:
        found.add(event)
    return found


START = Start(model="m", placement=[PlacedStage("desk", 1, 0, 9)], prompt_tokens=3)


def test_an_answer_that_was_stopped_says_how_far_it_was():
    loading, begun, talking = (
        answer(Progress(text="loading")),
        answer(Progress(text="loading"), START),
        answer(START, Text(text="a", tokens=[1])),
    )
    for one in (loading, begun, talking):
        one.cut_off()
    assert loading.footer() == "stopped before the model was ready: nothing was computed"
    assert begun.footer() == "m · stopped before the first word"
    assert talking.footer().endswith(" · stopped")


def test_a_full_window_is_not_the_token_limit():
    done = Done(
        finish="context", text="a", tokens=[1], model="m", seed=1, placement=[], received={}, timings=Timings(),
        notes=["asked as ChatML: the model has no chat template"],
    )  # fmt: skip
    assert (
        answer(START, done)
        .footer()
        .endswith(" · stopped: the context window is full · asked as ChatML: the model has no chat template")
    )
    assert answer(START, dataclasses.replace(done, finish="length", notes=[])).footer().endswith("the token limit")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"type": "string", "type": "integer"}', "the key 'type' occurs twice"),
        ('{"minimum": NaN}', "NaN is no number of JSON"),
        ('{"type": "string",\n  "pattern": }', "line 2 column 14"),
        ("[" * 100_000, "is not JSON"),
        ("", "line 1 column 1"),
    ],
)
def test_what_is_wrong_with_the_file_of_a_schema_is_said(tmp_path, text, words):
    (tmp_path / "schema.json").write_text(text)
    options = build_parser("ainet", in_kernel=False).parse_args(["ask", "--json-schema", str(tmp_path / "schema.json")])
    with pytest.raises(UsageError, match=re.escape(words)):
        sampling(options)


def test_files_of_schemas_and_grammars_may_begin_with_a_mark(tmp_path):
    for name, text in (("schema.json", '{"type": "string"}'), ("a.gbnf", 'root ::= "a"')):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    parser = build_parser("ainet", in_kernel=False)
    schema = sampling(parser.parse_args(["ask", "--json-schema", str(tmp_path / "schema.json")]))
    grammar = sampling(parser.parse_args(["ask", "--grammar", str(tmp_path / "a.gbnf")]))
    assert (schema["json_schema"], grammar["grammar"]) == ({"type": "string"}, 'root ::= "a"')
    request = GenerateRequest(messages=[Message("user", "hi")], grammar='\ufeffroot ::= "a"')
    assert to_open(request)[0].sampling.grammar == 'root ::= "a"'
