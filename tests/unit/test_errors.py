"""Errors travel as small dictionaries and arrive as what they were."""

import pickle

import pytest

from ainet import errors
from ainet.errors import AinetError, StageLost, TooLarge
from ainet.executor.peer_pipeline import PeerPipelineGone

TRAVELLING = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AinetError)]


@pytest.mark.parametrize("kind", TRAVELLING)
def test_every_error_arrives_as_what_it_was(kind):
    sent = kind("What happened.", size=3)
    for arrived in (AinetError.from_dict(sent.to_dict()), pickle.loads(pickle.dumps(sent))):  # noqa: S301
        assert type(arrived) is kind
        assert (arrived.message, arrived.details) == ("What happened.", {"size": 3})


def test_an_error_that_stays_inside_arrives_as_the_one_that_it_is_made_from():
    assert type(AinetError.from_dict(PeerPipelineGone("It is gone.").to_dict())) is StageLost


def test_an_error_with_a_code_of_its_own_is_known_to_every_device():
    with pytest.raises(TypeError, match=r"belongs into ainet\.errors"):

        class Elsewhere(AinetError):
            code = "elsewhere"


@pytest.mark.parametrize("data", [None, 7, {}, {"code": "of a later version", "message": 5, "details": 7}])
def test_what_is_no_error_arrives_as_a_plain_one(data):
    assert type(AinetError.from_dict(data)) is AinetError


def test_a_body_that_is_too_large_is_one_for_the_asker_too():
    assert TooLarge.status == 413
    assert type(AinetError.from_dict({"code": "too-large", "message": "It has 5000000 bytes."})) is TooLarge
