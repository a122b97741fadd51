"""Drafts: tokens that are tried before anybody knows whether they follow, so that one lap may bring several of them.

What followed the last few tokens when they occurred before is tried again: texts that are edited, summarised or quoted
repeat themselves. (Saxena, "Prompt Lookup Decoding", 2023; verification as in Leviathan et al., "Fast Inference from
Transformers via Speculative Decoding", ICML 2023: with drafts that are certain, a token is drawn as ever and the draft
is kept as long as it says the same, so the distribution of the text is that without drafts.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Most tokens of a draft.
MAX_DRAFT = 15
#: The number of tokens that must occur again before their sequel is tried: rather more than fewer.
LOOKUPS = (3, 2)
#: A draft that does not pay is tried nevertheless, so briefly, once in this many tokens: the text may have changed.
PROBE, PROBE_EVERY = 2, 48
#: Weight of what was measured last.
WEIGHT = 0.2


def most_outputs(sessions: int) -> int:
    """Return the most tokens of running answers, and of prompts that are scored, in a micro-batch: each has logits."""
    return max(sessions, MAX_DRAFT + 1)


class PromptLookup:
    """Finds what followed the last tokens of a text when they occurred before."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        #: The beginning of each sequence's sequel: after its last occurrence, but not at the very end.
        self._places: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text."""
        for token in tokens:
            n = len(self._tokens)
            for length in LOOKUPS:
                if n >= length:
                    self._places[tuple(self._tokens[n - length :])] = n
            self._tokens.append(token)

    def since(self, begin: int) -> list[int] | None:
        """Return the tokens from `begin` on; None where the text is not as long."""
        return self._tokens[begin:] if 0 <= begin <= len(self._tokens) else None

    def draft(self, most: int) -> list[int]:
        """Return what followed the last tokens when they occurred before, at most this many tokens."""
        places = [self._places.get(tuple(self._tokens[-length:])) for length in LOOKUPS]
        begin = next((place for place in places if place is not None), None)
        if begin is None or most <= 0:
            return []
        found = self._tokens[begin : begin + most]
        # The text may repeat itself in a circle that is shorter than the draft.
        period = len(self._tokens) - begin
        return [found[i % period] for i in range(most)]


class LapTime:
    """The time of a lap round the ring, by the rows of one session that it carries (s)."""

    def __init__(self) -> None:
        self._one = 0.0
        self._more = 0.0

    def measure(self, rows: int, seconds: float) -> None:
        """Note what a lap took."""
        if rows == 1:
            self._one += (WEIGHT if self._one else 1.0) * (seconds - self._one)
        elif self._one:
            more = max(0.0, seconds - self._one) / (rows - 1)
            self._more += (WEIGHT if self._more else 1.0) * (more - self._more)

    def seconds(self, rows: int) -> float:
        """Return the time of a lap with this many rows; until several were seen, each costs half a first one."""
        return self._one + (rows - 1) * (self._more or self._one / 2)


class Drafter:
    """Makes the drafts of one session, as long as is worth it.

    Parameters
    ----------
    lap
        The cost of laps, which is the same for all sessions.
    """

    def __init__(self, lap: LapTime) -> None:
        self._lap = lap
        self._lookup = PromptLookup()
        #: The guess of a model: the number of the first token, and the tokens.
        self._begin, self._guess = 0, list[int]()
        #: Share of tried tokens that are drawn, by whether a model guessed them; at first, a guess itself.
        self._agreement = {False: 0.7, True: 0.7}
        self._is_guess = False
        self._since_tried = PROBE_EVERY  # tokens

    def extend(self, tokens: list[int]) -> None:
        """Note tokens of the prompt, or that were drawn."""
        self._lookup.extend(tokens)
        self._since_tried += len(tokens)

    def judge(self, drawn: int, tried: int) -> None:
        """Note how many tokens a lap brought whose draft had `tried`."""
        if not tried:
            return
        self._since_tried = 0
        # Those after the first wrong one tell nothing.
        agreed = min(drawn - 1, tried)
        before = self._agreement[self._is_guess]
        for i in range(min(agreed + 1, tried)):
            before += WEIGHT * ((1.0 if i < agreed else 0.0) - before)
        self._agreement[self._is_guess] = before

    def suggest(self, begin: int, tokens: list[int]) -> None:
        """Note what a model guesses to follow the first `begin` tokens of the text."""
        self._begin, self._guess = begin, tokens

    def draft(self, most: int) -> list[int]:
        """Return the tokens to try after the last one, at most this many: what a model guessed, else what was found."""
        guess = self._rest()
        self._is_guess = bool(guess)
        n = self.length()
        if n == 0 and self._since_tried >= PROBE_EVERY:
            n = PROBE
        n = min(n, most, MAX_DRAFT)
        return guess[: max(0, n)] if guess else self._lookup.draft(n)

    def _rest(self) -> list[int]:
        """Return what is left of the guess, if what was drawn since agrees with it."""
        drawn = self._lookup.since(self._begin)
        if drawn is None or drawn != self._guess[: len(drawn)]:
            return []
        return self._guess[len(drawn) :]

    def length(self) -> int:
        """Return the length of a draft that brings the most tokens a second; 0 when none pays."""
        best, most, expected, chance = 0, 0.0, 0.0, 1.0
        for n in range(MAX_DRAFT + 1):
            expected += chance
            chance *= self._agreement[self._is_guess]
            seconds = self._lap.seconds(n + 1)
            rate = expected / seconds if seconds else 0.0
            if rate > most:
                best, most = n, rate
        return best
