"""``%ainet …`` as it was typed: IPython would take its ``?`` for help, and its ``!``, ``%`` and braces for commands.

A cell passes through these functions before IPython looks for signs of its own in it. They turn the line magic into the
call that IPython makes of it, with the text as a string that nothing reads any further.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from IPython.core.interactiveshell import InteractiveShell

#: A line that is no Python, or assigns what is none: magics, shell commands, help, and IPython's other signs.
_ESCAPED = re.compile(r"\s*[%!?,;/]|[^=#]*=\s*[%!]")
#: ``%ainet …`` itself, what it is assigned to, or another magic that runs it (``%time %ainet ask …``).
_MAGIC = re.compile(r"(?P<indent>\s*)(?P<target>[^=#]*?=\s*)??%ainet(?:[ \t]+(?P<text>.*))?", re.DOTALL)
_AROUND = re.compile(r"(?P<indent>\s*)%(?P<name>\w+)[ \t]+(?P<code>(?:.*?[\s=])??)%ainet[ \t]+(?P<text>.*)", re.DOTALL)
#: What IPython takes for a request for help, at the end of a line.
_IPYTHONS_HELP = re.compile(r"(?P<about>%{0,2}(?!\d)[\w*]+(?:\.\w+|\[-?\d+\])*)\?{1,2}$")
#: Cell magics that run the cell as Python.
_RUNS_CELL = re.compile(r"%%(capture|prun|time|timeit)\b")
#: The help of a subcommand.
_HELP = re.compile(r"(?P<command>[a-z][a-z-]*)\s*\?{1,2}")
_CELL_HELP = re.compile(rf"\s*%%ainet\s+{_HELP.pattern}\s*")
_AUTOMAGIC = re.compile(r"\s*ainet[ \t]+(?P<text>(?P<command>[a-z][a-z-]*)(?:\s.*|\?{1,2})?)\s*")


def keep_typed_text(shell: InteractiveShell, commands: frozenset[str]) -> Callable[[list[str]], list[str]]:
    """Return the function that IPython calls with the lines of each cell of `shell`; `commands` are the subcommands."""

    def transform(lines: list[str]) -> list[str]:
        if not any("ainet" in line for line in lines):
            return lines
        cell = "".join(lines)
        if match := _CELL_HELP.fullmatch(cell):
            return [_call(f"{match['command']}?")]
        if lines[0].startswith("%%"):
            return [lines[0], *_transformed(lines[1:])] if _RUNS_CELL.match(lines[0]) else lines
        if len(lines) == 1 and shell.automagic and "ainet" not in shell.user_ns:
            match = _AUTOMAGIC.fullmatch(cell)
            if match is not None and match["command"] in commands:
                return [_call(match["text"])]
        return list(_transformed(lines))

    return transform


def mend_this_cell(shell: InteractiveShell) -> None:
    """Let the rest of the cell that loads the magics be as it was typed: IPython had read all of it before.

    Only questions that end with ``?`` are something else by then: requests for help for their last words. Until the
    cell ends, such a request is the question.
    """
    questions: dict[str, list[str]] = {}
    for line in _raw_cell(shell).splitlines():
        typed, asked = _MAGIC.fullmatch(line.rstrip()), _IPYTHONS_HELP.search(line.rstrip())
        if typed is not None and asked is not None and _HELP.fullmatch(typed["text"] or "?") is None:
            questions.setdefault(asked["about"], []).append(typed["text"])
    if not questions:
        return
    known = shell.magics_manager.magics["line"]
    before = {name: known[name] for name in ("pinfo", "pinfo2", "psearch")}

    def help_or_question(name: str) -> Callable[..., object]:
        def run(about: str = "", *rest: object, **given: object) -> object:
            asked = questions.get(about)
            if not asked:
                known[name] = before[name]
                try:
                    return known[name](about, *rest, **given)
                finally:
                    before[name], known[name] = known[name], run  # IPython may have loaded it only now
            return shell.run_line_magic("ainet", asked.pop(0) if len(asked) > 1 else asked[0])

        return run

    def restore(*_: object) -> None:
        known.update(before)
        shell.events.unregister("post_run_cell", restore)

    known.update({name: help_or_question(name) for name in before})
    shell.events.register("post_run_cell", restore)


def _raw_cell(shell: InteractiveShell) -> str:
    """Return what was typed into the cell that runs now, as far as that is known."""
    parent: dict[str, Any] = getattr(shell, "get_parent", dict)() or {}
    code = parent.get("content", {}).get("code")
    inputs = shell.history_manager.input_hist_raw if shell.history_manager is not None else [""]
    return str(code or inputs[-1])


def _transformed(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a cell with the calls in the place of ``%ainet …``."""
    before = ""  # what was read since the last line that certainly began a statement
    rest = iter(lines)
    for line in rest:
        if not _ESCAPED.match(line) or not _is_complete(before):
            before += line
            yield line
            continue
        before = ""
        whole, text = line, line.rstrip()
        while text.endswith("\\") and (more := next(rest, None)) is not None:
            whole, text = whole + more, f"{text[:-1]} {more.rstrip()}"
        if (match := _MAGIC.fullmatch(text)) and _is_target(match["target"] or ""):
            yield match["indent"] + (match["target"] or "") + _call(match["text"] or "")
        elif match := _AROUND.fullmatch(text):  # such magics take words apart: this is one without a quoted space
            hidden = f"bytes.fromhex('{match['text'].encode().hex()}').decode()"
            code = f"{match['code']}get_ipython().run_line_magic('ainet',{hidden})"
            yield f"{match['indent']}get_ipython().run_line_magic({match['name']!r}, {code!r})\n"
        else:
            yield whole


def _call(text: str) -> str:
    """Return the call that runs ``%ainet`` with this text."""
    if match := _HELP.fullmatch(text):
        text = f"{match['command']} --help"
    return f"get_ipython().run_line_magic('ainet', {text!r})\n"


def _is_target(text: str) -> bool:
    """Tell whether this is nothing, or what stands before a value that is assigned."""
    if not text:
        return True
    try:
        ast.parse(f"{text.strip()} 0")
    except (SyntaxError, ValueError):
        return False
    return True


def _is_complete(source: str) -> bool:
    """Tell whether a new statement can begin behind these lines: no bracket and no long string is open."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO(source).readline):
            pass
    except tokenize.TokenError as exc:
        return "EOF in multi-line" not in str(exc) and "triple-quoted" not in str(exc)
    except SyntaxError:  # this will be said when the cell runs
        return True
    return True
