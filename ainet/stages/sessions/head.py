"""The head of a pipeline: sessions, who is answered next, and sampling. It lives on the last stage."""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING

from ainet.errors import AinetError, Busy, ModelError, UsageError
from ainet.stages.llama.vocabulary import Vocabulary
from ainet.stages.protocol.generation import (
    KEY_BITS,
    MAX_GUESS,
    Done,
    Event,
    Failed,
    Guess,
    Guessed,
    Open,
    PromptRead,
    PromptScored,
    Started,
    Suggest,
    Text,
)
from ainet.stages.protocol.spec import STATE_TOKENS
from ainet.stages.ring.ring import Next
from ainet.stages.sessions.cells import Cells
from ainet.stages.sessions.drafting import Drafting
from ainet.stages.sessions.drafts import MAX_DRAFT
from ainet.stages.sessions.guesses import Guesses
from ainet.stages.sessions.prefixes import Prefix, Prefixes
from ainet.stages.sessions.recovered import Recovered
from ainet.stages.sessions.session import Drawn, Session
from ainet.stages.sessions.turns import Turns
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ainet.stages.llama.llama import Llama
    from ainet.stages.protocol.recovery import Recovery
    from ainet.stages.protocol.segments import Segment
    from ainet.stages.ring.ring import Ring


class Head:
    """Answers several sessions at a time and lets a limited number wait. Used by the decode thread only.

    It keeps the order of what happens. `Cells` knows what exact mode does otherwise, `Drafting` what is tried before it
    is drawn, `Recovered` what goes on from a lost pipeline, `Turns` who is next.

    Parameters
    ----------
    llama
        The last stage, with its vocabulary.
    ring
        Reaches the first stage.
    sessions
        Most sessions that are answered at the same time.
    queue
        Most sessions that may wait, of each user.
    exact
        Whether nothing may depend on which sessions share the stages.
    speculate
        Whether tokens are tried before they are drawn, where that is faster.
    is_whole
        Whether the stage holds the whole model.
    """

    def __init__(
        self,
        llama: Llama,
        ring: Ring,
        *,
        sessions: int,
        queue: int,
        exact: bool = False,
        speculate: bool = False,
        is_whole: bool = True,
        timing: Timing = TIMING,
    ) -> None:
        self._timing = timing
        self._llama = llama
        self._ring = ring
        self._most = min(sessions, llama.n_slots)
        self._queue = queue
        self._is_whole = is_whole
        self._log = logging.getLogger("ainet.stage")
        self._vocabulary = Vocabulary(llama)
        self._active: dict[int, Session] = {}
        self._waiting: list[Session] = []
        self._turns = Turns()
        self._usual_seconds = 0.0
        self._cells = Cells(llama, exact=exact)
        self._drafting = Drafting(enabled=speculate, most=_longest_draft(llama))
        self._recovered = Recovered(ring, llama.n_ubatch)
        self._prefixes = Prefixes(0, self._cells.unit)
        self._guesses = Guesses(llama, self._vocabulary)

    def answers(self, segment: Segment) -> bool:
        """Whether anybody still waits for what follows these rows."""
        session = self._active.get(segment.slot)
        return session is not None and not session.is_over

    @property
    def waiting(self) -> int:
        """Sessions that wait or run."""
        return len(self._waiting) + len(self._active)

    def start(self, kept_tokens: int, recovery: Recovery | None = None) -> None:
        """Note how many tokens of prompts every stage can keep, and which sessions of a lost pipeline can go on."""
        llama = self._llama
        overhead = STATE_TOKENS if llama.has_state else 0
        self._prefixes = Prefixes(kept_tokens, self._cells.unit, whole=not llama.can_keep, overhead=overhead)
        if recovery is not None:
            self._recovered.start(recovery, self._timing.claim)
            self._cells.recover(recovery)

    def tick(self) -> None:
        """Give up the sessions of a lost pipeline for which nobody has come; called now and then."""
        self._recovered.give_up_unclaimed()

    def open(self, request: Open, reply: Callable[[Event], None]) -> None:
        """Answer `request`, now or when its turn comes; `reply` hears of it."""
        queued = sum(session.request.user == request.user for session in self._waiting)
        if queued >= self._queue and (self._waiting or len(self._active) >= self._most):
            usual = self._usual_seconds or self._timing.first_generation
            seconds = max(1, round(usual * (len(self._waiting) + 1) / self._most))
            msg = f"This pipeline is busy: {self.waiting} requests are before yours. Ask again in {seconds} s."
            reply(Failed(request.session, Busy(msg, retry_after=seconds).to_dict()))
            return
        self._waiting.append(Session(request, reply))
        self._next()

    def cancel(self, request: Open) -> None:
        """End the session that `request` opened, keeping what it said."""
        for session in [one for one in self._active.values() if one.request is request]:
            if not session.is_over:
                self._finish(session, "cancelled")
        for session in [one for one in self._waiting if one.request is request]:
            self._waiting.remove(session)
            session.close()
            session.reply(Done(request.session, "cancelled", ""))

    def allow(self, request: Open, most: int) -> None:
        """Let the session that `request` opened say this number of tokens in all."""
        for session in [*self._active.values(), *self._waiting]:
            if session.request is not request or session.is_over:
                continue
            session.allowed = most
            if session.paused is not None and session.may_go_on:
                step, session.paused = session.paused, None
                session.sent = 0.0  # a pause says nothing of how long a lap takes
                self._ring.tokens([step])

    def suggest(self, request: Open, suggestion: Suggest) -> None:
        """Note what a smaller model guesses to follow in the session that `request` opened."""
        if not all(0 <= token < self._vocabulary.n_tokens for token in suggestion.tokens):
            return
        for session in self._active.values():
            if session.request is request and session.drafter is not None:
                session.drafter.suggest(suggestion.begin, suggestion.tokens)

    def guess(self, asked: Guess, reply: Callable[[Event], None]) -> None:
        """Say what follows some tokens, for a larger model that is asked less often then."""
        if not self._is_whole:
            error = UsageError("Only a model that is whole on one stage can guess.")
            reply(Failed(asked.session, error.to_dict()))
            return
        if self._active or self._waiting or self._recovered:
            busy = Busy("This pipeline answers somebody: it cannot guess at the same time.", retry_after=1)
            reply(Failed(asked.session, busy.to_dict()))
            return
        try:
            tokens = self._guesses.guess(asked.begin, asked.tokens, min(asked.most, MAX_GUESS))
        except AinetError as exc:
            reply(Failed(asked.session, exc.to_dict()))
        else:
            reply(Guessed(asked.session, tokens))

    def decoded(self, segments: Sequence[Segment]) -> None:
        """Draw the tokens that follow a micro-batch, whose logits are there."""
        following: list[Next] = []
        told: list[tuple[Session, Drawn, str | None]] = []
        row = 0
        for segment in segments:
            row += segment.rows
            session = self._active.get(segment.slot)
            if session is None or session.is_over:
                continue
            if session.request.tells and not session.has_begun:
                session.reply(PromptRead(session.request.session, min(segment.end, len(session.prompt))))
            if not segment.outputs:
                continue
            if not session.has_begun and not session.scores_prompt:
                self._keep(session, segment.end, segment.end)
            tried = len(session.draft)
            drawn = session.draw(segment, row - segment.outputs)
            text = None
            if session.request.stop:
                drawn, text = session.say(drawn)
            told.append((session, drawn, text))
            if drawn.finish is None and drawn.error is None:
                is_alone = len(self._active) == 1 and not self._waiting
                # All rows of a batch have room for their logits; in exact mode it does not matter who else runs.
                share = (MAX_DRAFT + 1) // (self._most if self._cells.is_exact else len(self._active))
                judged = min(share, self._llama.n_ubatch) - 1
                draft = self._drafting.after(session, drawn, tried, is_alone=is_alone, judged=judged)
                last = drawn.tokens[-1] if drawn.tokens else int(session.prompt[drawn.position])
                step = Next(segment.slot, drawn.position, [last, *draft])
                if session.may_go_on:
                    following.append(step)
                else:
                    session.paused = step
        # The other stages begin at once: the text is made, and told, while they compute.
        self._ring.tokens(following)
        for session, drawn, said in told:
            text = session.say(drawn)[1] if said is None else said
            number, scored = session.request.session, drawn.scored
            if scored:
                end = len(session.prompt) if drawn.tokens or drawn.finish or drawn.error else drawn.position + 1
                session.reply(PromptScored(number, end - len(scored), scored))
            if drawn.tokens or drawn.margins or drawn.logprobs:
                session.reply(Text(number, text, drawn.tokens, drawn.laps, drawn.margins, drawn.logprobs))
            if drawn.error is not None:
                self._end(session, Failed(session.request.session, drawn.error.to_dict()))
            elif drawn.finish is not None:
                self._finish(session, drawn.finish)
        self._next()

    def released(self, slot: int) -> None:
        """Every stage has given the session up: the next one may begin."""
        cells = self._recovered.released(slot)
        if cells is None:
            cells = self._active.pop(slot).cells
        if self._cells.give_back(slot, cells, self._reserved):
            self._ring.clear()
        self._next()

    def fail(self, error: AinetError) -> None:
        """Tell everybody who runs or waits that the pipeline failed."""
        active, self._active = self._active, {}
        waiting, self._waiting = self._waiting, []
        # A session that is being released was answered already.
        for session in [*(one for one in active.values() if not one.is_over), *waiting]:
            session.reply(Failed(session.request.session, error.to_dict()))
            session.close()

    def _next(self) -> None:
        """Begin what can be begun: fairly between users, and nobody is overtaken for needing more room."""
        while self._waiting and len(self._active) < self._most:
            if any(session.draft or session.has_leftovers for session in self._active.values()):
                return  # what comes into a gap among the cells is summed up in another order
            session = self._turns.next(self._waiting, self._active.values(), lambda one: one.key in self._recovered)
            if not self._cells.has_slot and session.key not in self._recovered:
                return
            try:
                session.prepare(self._llama, self._vocabulary)
            except AinetError as exc:
                self._refuse(session, exc)
                continue
            except Exception as exc:  # one request, whatever is wrong with it, must not end the pipeline
                self._log.exception("A request cannot be answered.")
                msg = f"The request cannot be answered ({type(exc).__name__}: {exc}); the engine's log has the details."
                self._refuse(session, ModelError(msg))
                continue
            known = 0 if session.scores_prompt else self._recovered.known(session)
            if known:
                prefix, kept, taken = None, 0, self._recovered.cells_of(session.key)
            elif session.key in self._recovered:
                self._recovered.give_up(session.key)
                continue
            else:
                # Where every row's logits are wanted, every row is computed.
                (prefix, kept), taken = (None, 0) if session.scores_prompt else self._prefixes.find(session.prompt), 0
            cells = self._cells.needed(session, prefix, taken=taken, known=known)
            if cells > self._cells.free(self._reserved) + taken:
                if known and not self._active:  # there will never be more room for it than now
                    self._recovered.give_up(session.key)
                    continue
                return
            self._waiting.remove(session)
            session.cells = cells
            self._begin(session, known, prefix, kept)

    @property
    def _reserved(self) -> int:
        """Cells that sessions have reserved, also those that are about to end or to go on."""
        return sum(session.cells for session in self._active.values()) + self._recovered.cells

    def _begin(self, session: Session, known: int, prefix: Prefix | None, kept: int) -> None:
        # A neighbour that is lost here is the pipeline's failure, not the request's.
        session.begun = time.monotonic()
        self._turns.note(session.request.user)
        session.key = session.key if known else secrets.randbits(KEY_BITS)
        session.reply(Started(session.request.session, session.prompt.tolist(), kept, session.key, session.notes))
        if (finish := session.finish) is not None:
            if known:
                self._recovered.give_up(session.key)
            session.close()
            session.reply(Done(session.request.session, finish, ""))
            return
        if not self._active:
            self._guesses.forget()
        session.slot = self._recovered.claim(session.key) if known else self._cells.take_slot()
        self._active[session.slot] = session
        self._drafting.begin(session)
        session.is_continued = known > 0
        if known:
            self._ring.again(session.slot, known)
        else:
            self._ring.begin(session.slot, session.key)
            if prefix is not None:
                self._ring.restore(session.slot, prefix.number, kept)
        self._compute(session, known, kept)

    def _compute(self, session: Session, known: int, kept: int) -> None:
        """Have the stages compute a prompt and what was generated before.

        Parameters
        ----------
        known
            Positions that all stages know which are not new.
        kept
            Tokens of the prompt that all stages know.
        """
        last = known or (len(session.tokens) - 1 if session.generated else kept)
        if last > kept and self._recovered.is_computed_again(known):
            self._ring.prompt(session.slot, kept, session.prompt[kept:last], logits=False, is_last=session.is_sold)
            if session.generated:
                self._ring.replay(session.slot, self._cells.replayed(session))
        self._ring.prompt(session.slot, last, session.first_rows[last:], logits=True, is_last=session.is_sold)

    def _keep(self, session: Session, known: int, cells: int) -> None:
        """Have the stages keep the tokens that are known of a session, in this many cells: for the next question."""
        if session.is_continued:
            return  # that its tokens are those that the stages know is what its asker says
        number, forgotten = self._prefixes.add(self._cells.kept(session)[:known], cells)
        if forgotten:
            self._ring.forget(forgotten)
        if number is not None:
            self._ring.keep(session.slot, number)

    def _refuse(self, session: Session, error: AinetError) -> None:
        self._waiting.remove(session)
        session.close()
        session.reply(Failed(session.request.session, error.to_dict()))

    def _finish(self, session: Session, finish: str) -> None:
        if self._cells.keeps_answers and session.has_begun:
            # The last token was not processed, or is on its way, with what is tried after it.
            known = len(session.prompt) + len(session.generated) - 1
            self._keep(session, known, min(known + 1 + MAX_DRAFT, self._llama.n_ctx))
        self._end(session, Done(session.request.session, finish, session.held()))

    def _end(self, session: Session, event: Done | Failed) -> None:
        seconds = time.monotonic() - session.begun
        weight = 0.3 if self._usual_seconds else 1.0
        self._usual_seconds += weight * (seconds - self._usual_seconds)
        session.close()
        session.is_over = True
        session.reply(event)
        self._ring.release(session.slot)


def _longest_draft(llama: Llama) -> int:
    """Return the most tokens that can be tried at once: they fit into one batch, and can be taken back."""
    return min(llama.n_ubatch - 1, MAX_DRAFT if llama.can_keep else llama.rollback)
