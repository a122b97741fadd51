"""The request for the speed of a member's device."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainet.links.request import Request
from ainet.models.gguf_values import TENSOR_TYPES


class SpeedsMeasured(msgspec.Struct, frozen=True):
    """Bytes of weights that one thread reads in a second, by the types of weights that are known."""

    speeds: dict[str, float]


class MeasureSpeeds(Request, frozen=True):
    """Ask how fast a device decodes with weights of these types; it may have to measure them first."""

    reply = SpeedsMeasured

    kinds: Annotated[list[str], msgspec.Meta(max_length=len(TENSOR_TYPES))]
