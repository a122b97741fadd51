"""The shape of what travels and of what is kept: names, tags and types, without the names of classes that stay inside.

A class's name is part of the shape only where it travels: as the name of a request, or as a tag.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import types
import typing
from typing import Any, get_args, get_origin

import msgspec

import ainet


def import_everything() -> None:
    """Import every module of the package, so that every class is known."""
    for module in pkgutil.walk_packages(ainet.__path__, "ainet."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def subclasses(kind: type) -> list[type]:
    """Return all classes of the package that derive from `kind`, however far down."""
    found = []
    for one in kind.__subclasses__():
        found += [one] * one.__module__.startswith("ainet.") + subclasses(one)
    return found


def shape(kind: Any, around: tuple[type, ...] = ()) -> Any:
    """Return what a value of this type looks like on its way, as JSON."""
    if kind is None or kind is type(None):
        return "null"
    if isinstance(kind, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        return shape(kind.__value__, around)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return shape(arguments[0], around)
    if origin in (typing.Union, types.UnionType):
        return {"any of": sorted((shape(one, around) for one in arguments), key=str)}
    if origin is typing.Literal:
        return {"one of": sorted(map(str, arguments))}
    if origin is not None:
        return {origin.__name__: [shape(one, around) for one in arguments if one is not Ellipsis]}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return struct_shape(kind, around)
    if dataclasses.is_dataclass(kind):
        return dataclass_shape(kind, around)
    return getattr(kind, "__name__", str(kind))


def dataclass_shape(kind: type, around: tuple[type, ...] = ()) -> Any:
    """Return the fields of a dataclass in their order."""
    hints = typing.get_type_hints(kind)
    required = (dataclasses.MISSING, dataclasses.MISSING)
    return {
        "map": [
            {field.name: shape(hints[field.name], (*around, kind))}
            | ({} if (field.default, field.default_factory) == required else {"optional": True})
            for field in dataclasses.fields(kind)
        ]
    }


def struct_shape(kind: type[msgspec.Struct], around: tuple[type, ...] = ()) -> Any:
    """Return the fields of a struct in their order, its tag, and whether names or places tell them apart."""
    if kind in around:
        return f"again, {len(around) - around.index(kind)} up"
    config = kind.__struct_config__
    fields = [
        {field.encode_name: shape(field.type, (*around, kind))} | ({} if field.required else {"optional": True})
        for field in msgspec.structs.fields(kind)
    ]
    described: dict[str, Any] = {"array" if config.array_like else "map": fields}
    return described if config.tag is None else {"tag": config.tag} | described
