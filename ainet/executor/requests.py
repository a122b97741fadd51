"""What a node asks of the pipelines of another one."""

from __future__ import annotations

import msgspec

from ainet.identity.roster import Count
from ainet.links.request import Request
from ainet.stages.protocol.generation import Event, Open


class Said(msgspec.Struct, frozen=True):
    """What a pipeline said."""

    event: Event


class PipelineState(msgspec.Struct, frozen=True):
    """How many sessions use a pipeline."""

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
