"""The ainet kernel: a full IPython kernel in which ``%ainet`` and ``%%ainet ask`` are there from the start."""

from __future__ import annotations

from ainet_kernel.kernel import AinetKernel

__all__ = ["AinetKernel"]
