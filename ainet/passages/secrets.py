"""Lines that hold keys, tokens and passwords never become passages: they are found by their form, not by their entropy.

What is a secret by its form, detect-secrets knows, and a few expressions of our own what it lacks. Its detector of
anything that is random is not used (it flags three quarters of a program's lines), nor that of public addresses.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from functools import cache
from typing import TYPE_CHECKING

import detect_secrets.plugins
import msgspec
from detect_secrets.plugins.base import RegexBasedDetector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ainet.storage.records import Passage

LEFT_OUT = "[a secret was left out]"
NOT_SECRET = frozenset(("IPPublicDetector",))
#: Kinds that detect-secrets 1.5 lacks: Hugging Face, GitHub's new ones, Google, Anthropic and OpenAI.
OWN = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bgithub_pat_\w{50,}|\bAIza[\w-]{35}|\bsk-(?:ant|proj|svcacct)-[\w-]{20,}|\bsk-[A-Za-z0-9]{40,}"
)
#: Something of this is in every line that a detector flags: asking all of them takes a hundred times as long.
SUSPICIOUS = re.compile(
    r"key|token|secret|passw|pwd|cloudant|softlayer|ibm|aws|akc|ap[0-9a-f]|a3t|abia|acca|akia|asia|gh[pousr]_|github_pat|"
    r"gl[a-z]{2,6}-|gr1348941|eyj|xox|hooks\.slack|sg\.|[rs]k[-_]|sq0csp|pypi-|hf_|aiza|private|://[^/\s]*:[^/\s]*@|"
    r"-us\d|\d{8}:|[as][ck][a-z0-9]{32}|[mno][\w-]{23,25}\.|_authtoken|api.softlayer",
    re.IGNORECASE,
)
BEGIN, END = re.compile(r"BEGIN [A-Z0-9 ]*PRIVATE KEY"), re.compile(r"END [A-Z0-9 ]*PRIVATE KEY")


def without_secrets(passages: Iterable[Passage]) -> Iterator[Passage]:
    """Yield the passages, each line that holds a secret replaced by a word about it."""
    in_key = False  # which may go on in the next passage
    for one in passages:
        if not in_key and SUSPICIOUS.search(one.text) is None:
            yield one
            continue
        lines = one.text.split("\n")
        for i, line in enumerate(lines):
            begins = BEGIN.search(line) is not None
            if in_key or begins or is_secret(line):
                lines[i] = LEFT_OUT
            in_key = (in_key or begins) and END.search(line) is None
        yield msgspec.structs.replace(one, text="\n".join(lines))


def is_secret(line: str) -> bool:
    """Whether a line holds a secret of a known form."""
    if SUSPICIOUS.search(line) is None:
        return False
    return OWN.search(line) is not None or any(True for detector in _detectors() for _ in detector.analyze_string(line))


@cache
def _detectors() -> list[RegexBasedDetector]:
    """Return the detectors of secrets that have a form of their own."""
    found = []
    for module in pkgutil.iter_modules(detect_secrets.plugins.__path__):
        names = vars(importlib.import_module(f"detect_secrets.plugins.{module.name}"))
        for name, kind in names.items():
            if not isinstance(kind, type) or not issubclass(kind, RegexBasedDetector) or inspect.isabstract(kind):
                continue
            if name not in NOT_SECRET:
                found.append(kind())
    return found
