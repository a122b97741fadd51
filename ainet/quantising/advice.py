"""Which format a device should have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ainet.api.quantise import FormatAdvice, FormatEstimate
from ainet.models.gguf_values import TENSOR_TYPES, tensor_nbytes
from ainet.models.manifest import Manifest
from ainet.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ainet.models.description import Tensor
    from ainet.placement.capacity import NodeCapacity

#: Tokens a second below which people wait for what they read.
READING = 10.0
#: Bits of a weight below which models lose much.
FEW_BITS = 4.0


def converted(manifest: Manifest, types: Mapping[str, int]) -> Manifest:
    """Return what `manifest` would be with tensors of these types, by their names: for planning, without hashes."""

    def change(tensor: Tensor) -> Tensor:
        kind = types.get(tensor.name, tensor.type)
        nbytes = tensor_nbytes(tensor.name, tensor.shape, kind)
        return msgspec.structs.replace(tensor, type=kind, nbytes=nbytes, hash="")

    return Manifest(manifest.name, manifest.metadata, manifest.tokenizer, tuple(map(change, manifest.tensors)))


def bits(manifest: Manifest) -> float:
    """Return the bits of a weight, on average."""
    weights = sum(
        tensor.nbytes * TENSOR_TYPES[tensor.type].block / TENSOR_TYPES[tensor.type].nbytes
        for tensor in manifest.tensors
    )
    return 8 * manifest.nbytes / weights


def kinds_of(manifest: Manifest) -> set[str]:
    """Return the types of the matrices."""
    return {TENSOR_TYPES[tensor.type].name for tensor in manifest.tensors if len(tensor.shape) > 1}


def mixed_speed(manifest: Manifest, speeds: Mapping[str, float]) -> float | None:
    """Return the bytes a second at which one thread reads this mixture of types; None if one is not known."""
    if not kinds_of(manifest) <= speeds.keys():
        return None
    sizes: dict[str, int] = {}
    for tensor in manifest.tensors:
        if len(tensor.shape) > 1:
            name = TENSOR_TYPES[tensor.type].name
            sizes[name] = sizes.get(name, 0) + tensor.nbytes
    return sum(sizes.values()) / sum(size / speeds[name] for name, size in sizes.items())


def recommend(name: str, capacity: NodeCapacity, estimates: Sequence[FormatEstimate]) -> FormatAdvice:
    """Choose among `estimates`: the most bits at which a token comes as fast as people read, else the fastest.

    Formats of less than four bits are chosen only where no other one fits.
    """
    able = [one for one in estimates if one.fits and one.seconds is not None]
    fair = [one for one in able if one.bits >= FEW_BITS]
    quick = [one for one in fair if one.seconds is not None and one.seconds <= 1 / READING]
    where = f"{capacity.name}, of whose memory {show_bytes(capacity.memory)} are free"
    chosen: FormatEstimate | None = None
    if quick:
        chosen = max(quick, key=lambda one: one.bits)
        why = f"keeps the most of those that write {READING:.0f} tokens a second or more on {where}."
    elif fair:
        chosen = min(fair, key=lambda one: one.seconds or 0.0)
        why = (
            f"is the quickest of those with {FEW_BITS:.0f} bits or more on {where}; none writes as fast as people read."
        )
    elif able:
        chosen = max(able, key=lambda one: one.bits)
        why = (
            f"is the largest that fits on {where}. With less than {FEW_BITS:.0f} bits a model loses much: compare it "
            "with its source (--text), or split a better one with another device."
        )
    elif estimates:
        least = min(estimates, key=lambda one: one.memory)
        why = (
            f"No format fits on {where}: {least.format} takes {show_bytes(least.memory)}. Split the model with another "
            "device (`ainet join`), or take a smaller one."
        )
    else:
        why = "It has fewer bits already than any of these formats."
    return FormatAdvice(
        model=name,
        device=capacity.name,
        memory=capacity.memory,
        threads=capacity.threads,
        formats=list(estimates),
        recommended=chosen.format if chosen else None,
        why=why if chosen is None else f"{chosen.format}{', as it is,' if chosen.is_source else ''} {why}",
    )
