"""Verbs: what is asked, checked on both sides, and who answers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import Annotated

import pytest

from ainet.api import contacts, notebooks, swarm
from ainet.api.answers import Answers
from ainet.api.limits import Count, Limits, Text, check
from ainet.api.verb import Nothing, Option, Verb, all_verbs
from ainet.client.client import NodeClient
from ainet.errors import AinetError, UsageError


@dataclass(frozen=True)
class Request:
    """What a test asks."""

    name: Text
    words: list[Annotated[str, Limits(2, 3)]]
    number: Count | None = None


TEST = Verb("test", "try it", "POST", "test/{name}", Request, Nothing)


def test_every_verb_has_a_line_of_help_and_an_address_of_its_own():
    addresses = [(verb.method, verb.path) for verb in all_verbs().values()]
    assert len(set(addresses)) == len(addresses)
    for verb in all_verbs().values():
        assert verb.help
        assert not verb.help.endswith(".")
        assert {*verb.in_path} <= {*inspect.signature(verb.request).parameters}


def test_what_is_asked_arrives_as_it_was():
    assert TEST.read(TEST.make("a", ["bc"])) == {"name": "a", "words": ["bc"], "number": None}
    share = notebooks.share.make("plan.ipynb", audience=["bob"])
    assert share["with"] == ["bob"]
    assert notebooks.share.read(share)["audience"] == ["bob"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "", "words": []}, "name has 0 characters; it must have 1 to 4096."),
        ({"name": "a", "words": ["ab", "c"]}, "words has 1 characters; it must have 2 to 3."),
        ({"name": "a", "words": [], "number": 0}, "number is 0; it must lie between 1 and 1024."),
    ],
)
def test_limits_hold_on_both_sides(given, words):
    for side in (lambda: TEST.make(**given), lambda: TEST.read(given)):
        with pytest.raises(UsageError) as refused:
            side()
        assert refused.value.message == words


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "a", "words": [], "nmae": "b"}, "unknown field `nmae`"),
        ({"name": "a"}, "missing required field `words`"),
        ({"name": 1, "words": []}, "`$.name`"),
    ],
)
def test_what_is_no_request_is_refused(fields, words):
    with pytest.raises(UsageError, match="The request is not understood: ") as refused:
        TEST.read(fields)
    assert words in refused.value.message


def test_numbers_in_a_query_are_texts_and_what_browsers_add_is_passed_over():
    assert all_verbs()["plan"].read({"stages": "3"}) == {"model": None, "stages": 3, "private": False}
    assert all_verbs()["status"].read({"1700000000": ""}) == {}


def test_a_request_without_limits_is_never_refused():
    check(Nothing())


async def test_a_verb_is_answered_by_one_and_before_that_the_node_is_starting():
    async def forget(name: str) -> contacts.ContactState:
        return contacts.ContactState("id", name, 0.0, connected=False)

    answers = Answers()
    with pytest.raises(AinetError, match="still starting"):
        answers.find(contacts.forget)
    answers.add(contacts.forget, forget)
    assert (await answers.find(contacts.forget)("bob")).name == "bob"
    with pytest.raises(ValueError, match="forget is answered already"):
        answers.add(contacts.forget, forget)


def test_a_client_has_every_verb_as_a_method_with_its_signature():
    client = NodeClient("http://127.0.0.1:1/", "token")
    assert {*all_verbs()} <= {*dir(client)}
    assert list(inspect.signature(client.join).parameters) == ["ticket", "name", "lan"]
    assert client.join.__doc__ == "Join the swarm of a ticket."
    assert client.join.__name__ == "join"
    with pytest.raises(TypeError, match="missing a required argument: 'name'"):
        client.forget()
    with pytest.raises(AttributeError, match="no verb 'frobnicate'"):
        client.frobnicate  # noqa: B018


def test_options_of_the_command_name_every_field():
    for verb in (swarm.invite, swarm.join, contacts.accept, contacts.forget, notebooks.open_notebook):
        hints = inspect.get_annotations(verb.request, eval_str=True)
        for field in fields(verb.request):
            assert any(isinstance(one, Option) for one in hints[field.name].__metadata__), (verb.name, field.name)
