"""What is done in a notebook is told to the node, where the owner wants it to be remembered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainet.api import context
from ainet.errors import AinetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from ainet.client.client import NodeClient

#: Characters of a cell, and of its output.
MOST_TEXT, MOST_OUTPUT = 50_000, 5_000
#: The beginning of cells that say something to the node, and not about the owner's work.
OWN = ("%ainet", "%%ainet", "%load_ext ainet")


class Remembering:
    """Tells the node of the cells of a kernel, and of its conversations.

    Parameters
    ----------
    shell
        The kernel's shell.
    node
        Returns a client of the node; raises `AinetError` where none runs.
    """

    def __init__(self, shell: InteractiveShell, node: Callable[[], NodeClient]) -> None:
        self._shell, self._node = shell, node
        #: Whether it is wished; None: not known yet.
        self.is_on: bool | None = None
        shell.events.register("post_run_cell", self._ran)

    def switch(self, mode: context.RememberMode) -> context.Remembering:
        """Change whether it is wished, and return what is remembered."""
        with self._node() as node:
            state = node.call(context.context_remember, here(), mode)
        self.is_on = state.on
        return state

    def conversation(self, question: str, answer: str) -> None:
        """Tell of a question and its answer."""
        number = self._shell.execution_count
        self._tell(f"asked {number}", "conversation", f"{question}\n\n{answer}", "", number)

    def _ran(self, result: Any) -> None:
        text = getattr(result.info, "raw_cell", None) or ""
        if not result.info.store_history or not text.strip() or text.lstrip().startswith(OWN):
            return
        if self.is_on is False:
            return
        number = result.execution_count or 0
        output = "" if result.result is None else self._as_text(result.result)
        if result.error_in_exec is not None:
            output = f"{type(result.error_in_exec).__name__}: {result.error_in_exec}"
        self._tell(getattr(result.info, "cell_id", None) or f"ran {number}", "cell", text, output, number)

    def _as_text(self, value: object) -> str:
        formatter = self._shell.display_formatter
        try:
            data, _ = formatter.format(value, include={"text/plain"}) if formatter is not None else ({}, {})
        except Exception:  # objects of others may raise anything
            return ""
        return str(data.get("text/plain", ""))

    def _tell(self, item: str, kind: context.RememberedKind, text: str, output: str, number: int) -> None:
        """Tell the node, if that is wished; a node that is not there remembers nothing."""
        if self.is_on is False:
            return
        try:
            with self._node() as node:
                if self.is_on is None:
                    self.is_on = node.call(context.context_remember, here()).on
                if self.is_on:
                    node.call(
                        context.context_remember_item,
                        path=here(),
                        item=item,
                        kind=kind,
                        text=text[:MOST_TEXT],
                        output=output[:MOST_OUTPUT],
                        ran=number,
                    )
        except AinetError:
            self.is_on = self.is_on or None


def here() -> str:
    """Return the path of the kernel's notebook, or its folder where that is not told."""
    # Jupyter's servers tell their kernels which notebook they belong to.
    return str(Path(os.environ.get("JPY_SESSION_NAME") or Path.cwd()).absolute())
