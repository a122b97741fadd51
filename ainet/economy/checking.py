"""Checking answers that were bought, on this owner's devices."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ainet.economy.checks import ONE_IN, Calibration, Verdict, check_of, is_due, usual_limit, verdict
from ainet.errors import AinetError, NotFound, ProtocolError
from ainet.files import write_private
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from pathlib import Path

    from ainet.economy.accounts import Accounts
    from ainet.economy.pair_account import PairAccount
    from ainet.economy.works import Judges, KnownModel
    from ainet.timing import Timing

#: Tokens that a device is measured with, and of each answer among them.
MEASURED, EACH = 2000, 250
#: Texts that are continued for that: of several kinds, as noise depends on how sure a model is.
BEGINNINGS = (
    "Once upon a time, in a harbour town by a cold sea,",
    "The three laws of thermodynamics state that",
    "def quicksort(items):\n    ",
    "Dear Sir or Madam,\n\nI am writing to you because",
    "Ingredients: two onions, a handful of parsley,",
    "In 1848, revolutions broke out all over Europe.",
    "To install the program, first download",
    "Question: Why is the sky blue?\nAnswer:",
)


class Sample(NamedTuple):
    """An answer that was bought.

    Attributes
    ----------
    model
        SHA-256 of the manifest of the model that was named.
    prompt, said
        Tokens of the prompt, and of what others have answered before.
    tokens
        Of this answer.
    ended
        Whether it ended by itself.
    """

    model: bytes
    prompt: Sequence[int]
    said: Sequence[int]
    tokens: Sequence[int]
    sampling: SamplingParams
    ended: bool


class Checking:
    """Judges answers by the model that they are said to be of, where one of this owner's devices has it.

    Parameters
    ----------
    judges
        Reads answers with a model.
    path
        The file in which it is kept how much this device differs from itself.
    """

    def __init__(self, judges: Judges, accounts: Accounts, path: Path, *, log: logging.Logger, timing: Timing) -> None:
        self._judges, self._accounts, self._path, self._log = judges, accounts, path, log
        self._timing, self._checked_at = timing, 0.0
        self._known: dict[str, Calibration] | None = None
        self._measuring: set[bytes] = set()
        self._tasks = Tasks("This device was not measured against itself", log)

    async def stop(self) -> None:
        """End what is being measured."""
        await self._tasks.stop()

    async def is_due(self, account: PairAccount, *, is_promised: bool) -> bool:
        """Tell whether an answer of this seller that has just come is to be checked.

        Parameters
        ----------
        is_promised
            Whether a bonus is promised for right answers of it.
        """
        passed = await self._accounts.checks(account)
        return is_promised or is_due(len(passed), failed_last=passed[-1:] == [False], chance=secrets.randbelow(ONE_IN))

    async def known(self, model: bytes, name: str) -> KnownModel | None:
        """Return the model (SHA-256 of its manifest), which others call so, where a device of this owner has it."""
        return await self._judges.known(model, name)

    async def check(self, sample: Sample) -> Verdict:
        """Judge an answer.

        Raises
        ------
        AinetError
            No device of this owner can: it has not the model, or no room for it.
        """
        request = check_of(sample.prompt, sample.said, sample.tokens, sample.sampling, ended=sample.ended)
        return await self.judge(sample, await self._judges.judge(sample.model, request))

    async def judge(self, sample: Sample, margins: Sequence[float]) -> Verdict:
        """Return what margins say of an answer, whoever has read it.

        Raises
        ------
        ProtocolError
            They are not one for each token, and for the end: it was not read to its end, or it was another one.
        """
        if len(margins) != len(sample.tokens) + sample.ended:
            raise ProtocolError(f"{len(margins)} of {len(sample.tokens) + sample.ended} tokens were judged.")
        calibration = (await self._calibrations()).get(sample.model.hex())
        n = max(len(sample.tokens), 1)
        if calibration is not None and calibration.llama == self._judges.version:
            limit = await asyncio.to_thread(calibration.limit, n)
        else:
            limit = usual_limit(n)
            self._measure_soon(sample.model)
        return verdict(margins, limit, ends=sample.ended)

    async def measure(self, model: bytes) -> Calibration:
        """Measure how much this device differs from itself with a model, and keep it; raises AinetError."""
        noise: list[float] = []
        sampling = SamplingParams()
        for n in range(MEASURED // EACH):
            sampling = msgspec.structs.replace(sampling, seed=n)
            prompt, tokens = await self._judges.continued(model, BEGINNINGS[n % len(BEGINNINGS)], sampling, EACH)
            request = check_of(prompt, [], tokens, sampling, ended=False)
            noise += await self._judges.judge(model, request) if tokens else []
        if not noise:
            raise NotFound("the model says nothing to go by")
        found = Calibration(self._judges.version, [round(one, 5) for one in noise])
        known = await self._calibrations()
        known[model.hex()] = found
        await asyncio.to_thread(write_private, self._path, msgspec.json.encode(known))
        return found

    def _measure_soon(self, model: bytes) -> None:
        self._checked_at = time.monotonic()
        if model not in self._measuring:
            self._measuring.add(model)
            self._tasks.spawn(self._measure(model))

    async def _measure(self, model: bytes) -> None:
        """Measure once nothing was checked for a while: the owner may be about to ask more."""
        while (rest := self._checked_at + self._timing.measured_after - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(rest)
        try:
            await self.measure(model)
        except AinetError as exc:
            self._log.info("This device was not measured against itself: %s", exc.message)
        finally:
            self._measuring.discard(model)

    async def _calibrations(self) -> dict[str, Calibration]:
        if self._known is None:
            self._known = await asyncio.to_thread(_read, self._path)
        return self._known


def _read(path: Path) -> dict[str, Calibration]:
    try:
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, Calibration])
        return {model: one for model, one in known.items() if one.noise}
    except (OSError, msgspec.MsgspecError):
        return {}  # it is measured anew
