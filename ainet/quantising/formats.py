"""The formats that llama.cpp writes."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from ainet.errors import UsageError
from ainet.models.description import FILE_TYPES


class Format(NamedTuple):
    """A format of a whole file.

    Attributes
    ----------
    name
        Such as ``Q4_K_M``.
    number
        ``enum llama_ftype`` of llama.h.
    importance
        Whether llama.cpp writes it only with an importance matrix.
    """

    name: str
    number: int
    importance: bool


#: `tensor_requires_imatrix` of llama-quant.cpp, by the types that these formats consist of.
_IMPORTANCE = frozenset(("IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q2_K_S"))
#: NVFP4 is made from weights that were trained for it; llama.cpp writes none.
FORMATS = {name: Format(name, number, name in _IMPORTANCE) for number, name in FILE_TYPES.items() if name != "NVFP4"}
#: What is compared where nothing is named.
USUAL = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_NL", "Q4_0", "Q3_K_M", "Q2_K")


def find_format(name: str) -> Format:
    """Return the format of that name, in whatever letters.

    Raises
    ------
    UsageError
        There is none; the message names what is near.
    """
    found = FORMATS.get(name.upper())
    if found is None:
        near = difflib.get_close_matches(name.upper(), FORMATS, n=3, cutoff=0.5) or USUAL
        raise UsageError(f"{name!r} is no format that llama.cpp writes. There are, among others: {', '.join(near)}.")
    return found
