"""The requests of a node for the pipelines of another one."""

from __future__ import annotations

import msgspec

from ainet.identity.roster import Count
from ainet.links.request import Request
from ainet.stages.protocol.generation import Event, Open


class Said(msgspec.Struct, frozen=True):
    """An event of a pipeline."""

    event: Event


class PipelineState(msgspec.Struct, frozen=True):
    """The number of sessions that use a pipeline."""

    sessions: Count


class DescribePipeline(Request, frozen=True):
    """Ask how busy a pipeline is that the node has loaded."""

    reply = PipelineState

    pipeline: str


class AskPipeline(Request, frozen=True):
    """Ask a question of a pipeline that the node has loaded; cancelling the request cancels the session."""

    progress = Said

    pipeline: str
    request: Open


class ForgetPrompts(Request, frozen=True):
    """Ask that nothing is kept of what the asker has asked the node's pipelines."""
