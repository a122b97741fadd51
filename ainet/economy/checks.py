"""Checks of answers: whether they are what the model that was named would have said.

Every token is judged by how much better another one would have been, from 0 to 1, with the same seed. Honest devices
differ a little, since sums of floats depend on how they are added up; other weights differ a lot. How much a little is,
a device measures on itself: its own answers, token by token, against its own reading of them all at once.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ainet.stages.protocol.generation import Open, Resume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.stages.protocol.sampling_params import SamplingParams

#: The part of honest answers that may be found above the limit, and in how many draws that part is looked for.
FALSE_ALARMS, DRAWS = 0.001, 4000
#: By what the limit of a device is multiplied that stands for all others.
OTHERS = 1.15
#: Limits at so many tokens: a small model with 4 bits a weight, answered and read by unlike honest set-ups.
USUAL = ((10, 0.2), (50, 0.060), (200, 0.028), (1000, 0.015))
#: An end is judged by itself: one that could have been drawn is better than this.
LEAST_END = 1.0
#: Tokens by which an answer may be longer than its text, read anew.
PADDED = 1.05
#: Answers of a seller that are all checked, and of how many later ones one is.
FIRST, ONE_IN = 10, 50
#: Of a seller's checks this number may fail, or this part: an honest one fails one in hundreds.
MANY, MOST_FAILED = 3, 0.05


class Verdict(NamedTuple):
    """What a check has found.

    Attributes
    ----------
    mean, limit
        Of the margins of an answer, and up to where they are those of the model that was named.
    words
        What else is wrong; empty for nothing.
    """

    mean: float
    limit: float
    words: str = ""

    @property
    def passed(self) -> bool:
        """Whether the answer is what the model would have said."""
        return self.mean <= self.limit and not self.words


class Calibration(msgspec.Struct, frozen=True):
    """How much this device differs from itself.

    Attributes
    ----------
    llama
        The version of llama.cpp.
    noise
        Margins of tokens that were drawn here one by one, as they are read here at once.
    """

    llama: str
    noise: list[float]

    def limit(self, n: int) -> float:
        """Return the mean of `n` margins that honest answers exceed with the probability `FALSE_ALARMS` at most.

        It is never below the usual one: a device that computes the same however it reads has measured nothing, and
        other honest ones still differ from it.
        """
        chance = random.Random(n)  # noqa: S311 - it is an estimate, and the same one each time
        means = sorted(sum(chance.choices(self.noise, k=n)) / n for _ in range(DRAWS))
        return max(OTHERS * means[math.ceil((1 - FALSE_ALARMS) * DRAWS) - 1], usual_limit(n))


def usual_limit(n: int) -> float:
    """Return the limit for so many tokens that will do for most models, between those that are known."""
    points = [(math.log(tokens), math.log(limit)) for tokens, limit in USUAL]
    x = min(max(math.log(max(n, 1)), points[0][0]), points[-1][0])
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x <= x1:
            return math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
    return USUAL[-1][1]


def check_of(
    prompt: Sequence[int], said: Sequence[int], tokens: Sequence[int], sampling: SamplingParams, *, ended: bool
) -> Open:
    """Return the request by which a pipeline judges an answer.

    Parameters
    ----------
    prompt, said
        Tokens of the prompt, and of what others have answered before.
    tokens, ended
        Of the answer, and whether it ended by itself.
    """
    expected = [*said, *tokens]
    return Open(
        session=0,
        messages=[],
        raw=False,
        sampling=sampling,
        max_tokens=len(expected) + 1,
        resume=Resume(list(prompt), list(said), []),
        expected=expected,
        expects_end=ended,
    )


def verdict(margins: Sequence[float], limit: float, *, ends: bool) -> Verdict:
    """Return what margins say of an answer.

    Parameters
    ----------
    ends
        Whether the last one is that of its end, which is judged by itself.
    """
    of_tokens = margins[:-1] if ends else margins
    mean = sum(of_tokens) / len(of_tokens) if of_tokens else 0.0
    if ends and margins[-1] >= LEAST_END and mean <= limit:
        return Verdict(mean, limit, "it ends where it could not have ended")
    return Verdict(mean, limit)


def is_due(checked: int, *, failed_last: bool, chance: int) -> bool:
    """Tell whether an answer of a seller is checked.

    Parameters
    ----------
    checked
        Its answers that were checked.
    failed_last
        Whether the last one of these was found wrong: then the next one is checked, too.
    chance
        A random number from 0 to `ONE_IN` - 1, drawn when the answer is there.
    """
    return failed_last or checked < FIRST or chance == 0


def lies(passed: Sequence[bool]) -> bool:
    """Tell whether the checks of a seller, the newest one last, say that it does not serve what it names.

    Two of the last three failed; or so many of all, as where one answer in ten is from another model, that chance does
    not make them.
    """
    failed = list(passed).count(False)
    return list(passed[-3:]).count(False) >= 2 or (failed >= MANY and failed > MOST_FAILED * len(passed))
