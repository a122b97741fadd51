"""The cells that ran last, to go along with a question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.errors import UsageError
from ainet.notebook.failure import described, names_in
from ainet.notebook.remembering import OWN

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

#: Characters of a cell, and of what it returned; what is longer loses its middle.
MOST_CODE, MOST_OUTPUT = 1500, 300


def recent_words(shell: InteractiveShell, n: int) -> str:
    """Return the last `n` cells with the values that they returned, and what their variables are.

    Raises
    ------
    UsageError
        Nothing was executed yet.
    """
    history = shell.history_manager.input_hist_raw if shell.history_manager is not None else []
    ran = [(number, cell) for number, cell in enumerate(history) if cell.strip() and not cell.lstrip().startswith(OWN)]
    if not ran:
        raise UsageError("No cell has been executed yet that could go along.")
    parts = []
    for number, cell in ran[-n:]:
        parts.append(f"```python\n{_shortened(cell.strip(), MOST_CODE)}\n```")
        if number in shell.user_ns.get("Out", {}):
            parts.append(f"returned {_shortened(_text(shell.user_ns['Out'][number]), MOST_OUTPUT)}")
    names = {name for _, cell in ran[-n:] for name in names_in(cell)}
    known = list(described(names, shell.user_ns))
    parts += ["Variables: " + "; ".join(known) + "."] if known else []
    return "\n".join(["These cells were executed:", *parts])


def _text(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # objects of others may raise anything
        return f"an object of type {type(value).__name__}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
