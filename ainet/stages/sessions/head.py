"""The head of a pipeline: sessions, who is answered next, and sampling. It lives on the last stage."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
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
    Started,
    Suggest,
    Text,
)
from ainet.stages.ring.ring import Next
from ainet.stages.sessions.drafts import MAX_DRAFT, Drafter, LapTime
from ainet.stages.sessions.guesses import Guesses
from ainet.stages.sessions.prefixes import Prefix, Prefixes
from ainet.stages.sessions.session import Drawn, Session
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ainet.stages.llama.llama import Llama
    from ainet.stages.protocol.recovery import Continued, Recovery
    from ainet.stages.protocol.segments import Segment
    from ainet.stages.ring.ring import Ring


class Head:
    """Answers several sessions at a time and lets a limited number wait. Used by the decode thread only.

    Every session reserves the cells of the KV cache that it may need, so that none ever fails for want of them.

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
        self._exact = exact
        self._is_whole = is_whole
        self._speculates = speculate and llama.can_keep
        self._lap = LapTime()
        self._log = logging.getLogger("ainet.stage")
        self._vocabulary = Vocabulary(llama)
        self._active: dict[int, Session] = {}
        self._waiting: list[Session] = []
        self._slots = list(range(llama.n_slots))
        #: Cells of sessions that have ended, and that are freed when none runs any more: what comes later to freed ones
        #: is summed up in another order.
        self._spent = 0
        #: How many sessions had begun when each user's last one did.
        self._turns: dict[str, int] = {}
        self._begun = 0
        self._usual_seconds = 0.0
        self._prefixes = self._empty(0)
        self._guesses = Guesses(llama, self._vocabulary)
        #: Sessions of a lost pipeline that can go on, by their keys, and until when; cells of those that do not.
        self._continued: dict[int, Continued] = {}
        self._claimed_by = 0.0
        self._unclaimed: dict[int, int] = {}
        self._first_is_new = False

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
        self._prefixes = self._empty(kept_tokens if self._llama.can_keep else 0)
        if recovery is not None:
            self._continued = {one.key: one for one in recovery.sessions}
            self._claimed_by = time.monotonic() + self._timing.claim
            self._first_is_new = 0 in recovery.new
            taken = {one.slot for one in recovery.sessions}
            if self._exact:
                self._spent = recovery.spent_cells
                taken.update(recovery.spent_slots)
            self._slots = [slot for slot in self._slots if slot not in taken]

    def tick(self) -> None:
        """Give up the sessions of a lost pipeline for which nobody has come; called now and then."""
        if self._continued and time.monotonic() > self._claimed_by:
            for key in list(self._continued):
                self._give_up(key)

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
        if self._active or self._waiting or self._continued:
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
            if not segment.outputs or session is None or session.is_over:
                continue
            if not session.has_begun:
                self._keep(session, segment.end, segment.end)
            tried = len(session.draft)
            drawn = session.draw(segment, row - segment.outputs)
            text = None
            if session.request.stop:
                drawn, text = session.say(drawn)
            told.append((session, drawn, text))
            if drawn.finish is None and drawn.error is None:
                tokens = [drawn.tokens[-1], *self._draft(session, drawn, tried)]
                following.append(Next(segment.slot, drawn.position, tokens))
        # The other stages begin at once: the text is made, and told, while they compute.
        self._ring.tokens(following)
        for session, drawn, said in told:
            text = session.say(drawn)[1] if said is None else said
            if drawn.tokens:
                session.reply(Text(session.request.session, text, drawn.tokens, drawn.laps))
            if drawn.error is not None:
                self._end(session, Failed(session.request.session, drawn.error.to_dict()))
            elif drawn.finish is not None:
                self._finish(session, drawn.finish)
        self._next()

    def released(self, slot: int) -> None:
        """Every stage has given the session up: the next one may begin."""
        cells = self._unclaimed.pop(slot) if slot in self._unclaimed else self._active.pop(slot).cells
        if self._exact:
            self._spent += cells
        else:
            self._slots.append(slot)
        if not self._cells_in_use and self._spent:
            self._ring.clear()
            self._spent, self._slots = 0, list(range(self._llama.n_slots))
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
            session = self._whose_turn()
            if not self._slots and session.key not in self._continued:
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
            known = self._known(session)
            if known:
                prefix, kept, taken = None, 0, self._continued[session.key].cells
            elif session.key in self._continued:
                self._give_up(session.key)
                continue
            else:
                (prefix, kept), taken = self._prefixes.find(session.prompt), 0
            cells = self._needs(session, prefix)
            if self._exact:
                cells += max(0, taken - known)  # what was on its way keeps its cells
            if cells > self._llama.n_ctx - self._spent - self._cells_in_use + taken:
                if known and not self._active:  # there will never be more room for it than now
                    self._give_up(session.key)
                    continue
                return
            self._waiting.remove(session)
            session.cells = cells
            self._begin(session, known, prefix, kept)

    def _whose_turn(self) -> Session:
        """Return who waits and has the fewest sessions running, then: whose last one began the longest ago."""
        running = Counter(session.request.user for session in self._active.values())
        here = {session.request.user for session in self._waiting} | set(running)
        self._turns = {user: turn for user, turn in self._turns.items() if user in here}
        return min(
            self._waiting,
            key=lambda one: (
                one.key not in self._continued,
                running[one.request.user],
                self._turns.get(one.request.user, 0),
            ),
        )

    @property
    def _cells_in_use(self) -> int:
        """Cells that sessions have reserved, also those that are about to end or to go on."""
        mine = sum(session.cells for session in self._active.values()) + sum(self._unclaimed.values())
        return mine + sum(one.cells for one in self._continued.values())

    def _known(self, session: Session) -> int:
        """Return how many positions of a session of a lost pipeline need not be computed by stages that are left."""
        there = self._continued.get(session.key)
        if there is None:
            return 0
        if session.generated:
            known = len(session.prompt) + len(session.generated) - 1
        else:  # whole chunks of its prompt, as they would be computed again
            known = min(there.known, len(session.prompt) - 1)
            known -= known % self._llama.n_ubatch
        return known if known <= there.known else 0

    def _give_up(self, key: int) -> None:
        """Have the stages forget a session of a lost pipeline."""
        there = self._continued.pop(key)
        self._unclaimed[there.slot] = there.cells
        self._ring.release(there.slot)

    def _begin(self, session: Session, known: int, prefix: Prefix | None, kept: int) -> None:
        # A neighbour that is lost here is the pipeline's failure, not the request's.
        session.begun = time.monotonic()
        self._begun += 1
        self._turns[session.request.user] = self._begun
        session.key = session.key if known else secrets.randbits(KEY_BITS)
        session.reply(Started(session.request.session, session.prompt.tolist(), kept, session.key))
        if (finish := session.finish) is not None:
            if known:
                self._give_up(session.key)
            session.close()
            session.reply(Done(session.request.session, finish, ""))
            return
        if not self._active:
            self._guesses.forget()
        session.slot = self._continued.pop(session.key).slot if known else self._slots.pop(0)
        self._active[session.slot] = session
        if self._speculates:
            session.drafter = Drafter(self._lap)
            session.drafter.extend(session.tokens.tolist())
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
        if last > kept and (not known or self._first_is_new):
            self._ring.prompt(session.slot, kept, session.prompt[kept:last], logits=False)
            if session.generated:
                # Where the shapes do not matter, what was tried for nothing would only leave gaps among the cells.
                self._ring.replay(session.slot, session.steps if not self._exact else session.plain_steps)
        self._ring.prompt(session.slot, last, session.tokens[last:], logits=True)

    def _draft(self, session: Session, drawn: Drawn, tried: int) -> list[int]:
        """Return the tokens that are tried after the one that was drawn last."""
        drafter = session.drafter
        if drafter is None:
            return []
        drafter.extend(drawn.tokens)
        drafter.judge(len(drawn.tokens), tried)
        now = time.perf_counter()
        is_alone = len(self._active) == 1 and not self._waiting
        if is_alone and session.sent:
            self._lap.measure(tried + 1, now - session.sent)
        # Where several sessions share the stages there is work enough; and in exact mode, a token that was tried for
        # nothing would leave a hole among the cells of the others.
        session.sent = now if is_alone else 0.0
        return session.propose(self._llama.n_ubatch - 1) if is_alone else []

    def _needs(self, session: Session, prefix: Prefix | None) -> int:
        """Return the cells of the KV cache that a session may come to use."""
        longest = min(len(session.prompt) + session.request.max_tokens, self._llama.n_ctx)
        return max(longest, prefix.cells if prefix is not None else 0)

    def _keep(self, session: Session, known: int, cells: int) -> None:
        """Have the stages keep the tokens that are known of a session, in this many cells: for the next question."""
        if session.is_continued:
            return  # that its tokens are those that the stages know is what its asker says
        tokens = session.tokens if self._exact else session.prompt
        number, forgotten = self._prefixes.add(tokens[:known], cells)
        if forgotten:
            self._ring.forget(forgotten)
        if number is not None:
            self._ring.keep(session.slot, number)

    def _empty(self, room: int) -> Prefixes:
        return Prefixes(room, 1 if self._exact else self._llama.n_ubatch)

    def _refuse(self, session: Session, error: AinetError) -> None:
        self._waiting.remove(session)
        session.close()
        session.reply(Failed(session.request.session, error.to_dict()))

    def _finish(self, session: Session, finish: str) -> None:
        if self._exact and session.has_begun:
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
