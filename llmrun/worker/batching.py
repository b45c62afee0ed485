"""Many answers at once: each step is one llama_decode, with the next token of every answer and some of each prompt."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from llmrun.engine.protocol import CountTokens, Phase, TokenCounts
from llmrun.engine.wire import failure_of
from llmrun.errors import LLMRunError
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.choosing import choose_slot, find_source
from llmrun.worker.embedding import Embedder
from llmrun.worker.encoding import check_room, count, encode_raw, render
from llmrun.worker.fault import contained
from llmrun.worker.job import Begun, Job
from llmrun.worker.llama import Context
from llmrun.worker.overlap import LEAST, common_prefix, least_stretch
from llmrun.worker.pace import Pace
from llmrun.worker.prompt import Prompt, PromptEncoder, common_length
from llmrun.worker.session import LARGE
from llmrun.worker.share import share
from llmrun.worker.slot import CANCELLED, NO_ROOM, OK, Slot, before_image, failed_decode
from llmrun.worker.speculation import Speculation
from llmrun.worker.turn import Turn, wanted_tokens
from llmrun.worker.writing import Writing

if TYPE_CHECKING:
    from llmrun.worker.vision import Vision

_ADMIT_SECONDS = 0.02  # of a step, for templates and tokenizers; then the others have their turn


class Batcher:
    """Answers requests, as many at once as there are slots; the others wait in the order they came.

    alone: the number of the only request of the step that is being computed, for who wants to break it off. n_steps:
    steps computed so far.
    """

    def __init__(
        self,
        context: Context,
        slots: Sequence[Slot],
        encoder: PromptEncoder,
        cancel: CancelFlag,
        vision: Vision | None,
        tell: Callable[[Phase], None],
        speculation: Speculation | None = None,
    ) -> None:
        self._context, self._slots, self._encoder = context, slots, encoder
        self._cancel, self._vision = cancel, vision
        self._phase = "idle"
        self._tell_phase = tell
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._clock = 0  # counts the requests that began
        self._is_crowded = False  # until one that is active ends, no other can begin
        large = context.model.size >= LARGE
        self._pace = Pace(context.n_rows, is_large=large, is_unified=context.is_unified)
        # keys that are copied lie in one stream, or a whole stream is
        self._least_copy = LEAST if context.is_unified else least_stretch(context.n_ctx)
        self._speculation = Speculation(context) if speculation is None else speculation
        self.embedder = Embedder(context, encoder.vocabulary, self._free)
        self.alone: int | None = None
        self.n_steps = 0

    @property
    def has_work(self) -> bool:
        """Whether there is a request that has not had its last word."""
        return bool(self._waiting or self._active or self.embedder.has_work)

    def submit(self, job: Job) -> None:
        """Take on a request; it begins when it has a slot."""
        self._waiting.append(job)

    def withdraw(self, number: int) -> None:
        """End a request that nobody waits for any more; its slot is free from here on."""
        self.embedder.withdraw(number)
        for job in [*self._waiting, *self._active]:
            if job.id == number:
                self._end(job)

    def count(self, question: CountTokens) -> TokenCounts:
        """Count as Session.count does, whatever is being written."""
        return count(question, self._encoder, self._tell, self._shown())

    def fail_all(self, error: LLMRunError) -> None:
        """Give up all requests."""
        self.embedder.fail_all(error)
        for job in [*self._waiting, *self._active]:
            self._fail(job, error)

    def forget(self) -> None:
        """Empty all slots, while nothing is being written."""
        for slot in self._slots:
            slot.forget()
            slot.claim(None)

    def step(self) -> None:
        """Begin what can begin, compute one batch, and say what came of it."""
        self._cancel.clear()
        self.embedder.begin()  # before the next answer does: a text takes a moment, and answers may never leave one
        self._admit()
        turns = self._turns()
        if turns:
            self._tell(Phase("decode"))
            self._read(turns)
        self._read_an_image()
        self.embedder.step()
        if not self.has_work:
            self._tell(Phase("idle"))

    def _tell(self, phase: Phase) -> None:
        if phase.name != self._phase:
            self._phase = phase.name
            self._tell_phase(phase)

    # ---- from waiting to a slot

    def _admit(self) -> None:
        started = time.perf_counter()
        while self._waiting and not self._is_crowded and (free := self._free()):
            job = self._waiting.popleft()
            with contained(partial(self._fail, job)):
                self._begin(job, free) if job.begun is None else self._resume(job, job.begun, free)
            if self._active and time.perf_counter() - started > _ADMIT_SECONDS:
                return

    def _free(self) -> list[Slot]:
        taken = {job.begun.slot.seq for job in self._active if job.begun is not None}
        return [slot for slot in self._slots if slot.seq not in taken and slot is not self.embedder.slot]

    def _apart(self) -> set[int] | None:
        """The sequences that are busy, where it matters which."""
        if self._context.is_unified:
            return None
        return {job.begun.slot.seq for job in self._active if job.begun is not None}

    def _begin(self, job: Job, free: Sequence[Slot]) -> None:
        started = time.perf_counter()
        prompt = self._encode(job)
        check_room(prompt, job.request.room, self._context)
        tokens = list(prompt.tokens)
        writing = Writing(job.request, prompt, self._encoder, self._context.n_ctx, job.say)
        slot = choose_slot(free, job.owner, tokens, self._apart())
        # from here on the job's end closes what it holds
        job.begun = begun = Begun(prompt, slot, writing, tokens, started, self.n_steps)
        self._take(slot, job.owner)
        source, n = find_source(self._slots, slot, job.owner, tokens[:-1], self._least_copy)
        begun.leader, begun.follows = self._leader(job, tokens[:-1], n)
        if begun.leader is None and source is not slot:
            slot.take_from(source, before_image(tokens, n))
        begun.cached = slot.reuse(tokens)
        self._active.append(job)
        self._active.sort(key=_seq)  # llama.cpp computes neighbouring sequences together

    def _resume(self, job: Job, begun: Begun, free: Sequence[Slot]) -> None:
        """Go on with a request that had to give up its memory."""
        begun.slot = choose_slot(free, job.owner, begun.tokens, self._apart())
        self._take(begun.slot, job.owner)
        begun.slot.reuse(begun.tokens)
        self._active.append(job)
        self._active.sort(key=_seq)

    def _take(self, slot: Slot, owner: str) -> None:
        self._clock += 1
        slot.used = self._clock
        slot.claim(owner)

    def _encode(self, job: Job) -> Prompt:
        request = job.request
        if request.raw is not None:
            return encode_raw(request.raw, self._encoder.vocabulary)
        shown, tools = self._shown(), request.tools
        text = render(request.messages, request.variables, self._encoder, self._tell, shown, tools=tools)
        known = [slot.remembered for slot in self._slots if slot.owner == job.owner]
        best = max(known, key=lambda one: common_length(one.text, text), default=Prompt("", ()))
        return self._encoder.tokenize(text, best)

    def _shown(self) -> list[str]:
        """The images that are not read yet, or may have to be read again."""
        return [path for job in self._active for message in job.request.messages for path in message.images]

    def _leader(self, job: Job, tokens: Sequence[int], n_there: int) -> tuple[Job | None, int]:
        """Return a request that is just reading what this one would read too, and how many tokens of it.

        n_there: how many are in some slot already.
        """
        best, most, least = None, 0, n_there + self._least_copy
        if self._context.model.is_recurrent:  # what is read beyond the shared part cannot be cut off
            return best, most
        for other in self._active:
            begun = other.begun
            if other.owner != job.owner or begun is None or begun.read_at is not None:
                continue
            n = common_prefix(begun.tokens, tokens)
            if n >= least and n > most:
                best, most = other, n
        return best, most

    def _follow(self, job: Job, begun: Begun) -> bool:
        """Tell whether a request still waits for another to read what both want; take it where it is there."""
        leader = begun.leader
        if leader is None:
            return False
        other = leader.begun
        if leader in self._active and other is not None and len(other.slot.past) < begun.follows:
            return True
        begun.leader = None
        source, n = find_source(self._slots, begun.slot, job.owner, begun.tokens[:-1], self._least_copy)
        if source is not begun.slot:
            begun.slot.take_from(source, before_image(begun.tokens, n))
        begun.cached = begun.slot.reuse(begun.tokens)
        return False

    # ---- a step

    def _turns(self) -> list[Turn]:
        """Divide a step: a token for all who write, what is left of it for those who read."""
        writing, reading = list[Turn](), list[tuple[Job, Begun]]()
        for job in self._active:
            begun = job.begun
            assert begun is not None
            if self._follow(job, begun):
                continue
            if begun.is_writing:
                writing.append(Turn(job, begun, len(begun.slot.past), begun.tokens[-1:]))
            else:
                reading.append((job, begun))
        if reading:
            return [*writing, *self._reading_turns(reading, len(writing))]
        return [self._ahead(writing[0])] if len(writing) == 1 == len(self._active) else writing

    def _reading_turns(self, reading: Sequence[tuple[Job, Begun]], n_writing: int) -> list[Turn]:
        """Give what there is room for to those who have waited longest, and of these to who needs least."""
        queue = sorted((begun for _, begun in reading), key=lambda begun: (begun.turn, begun.n_left))
        wanted = [wanted_tokens(begun, self._context.n_rows) for begun in queue]
        shares = share(self._pace.room(n_writing, [begun.n_left for begun in queue]), wanted)
        given = {begun.slot.seq: n for begun, n in zip(queue, shares, strict=True) if n}
        turns = []
        for job, begun in reading:
            n_past = len(begun.slot.past)
            if n := given.get(begun.slot.seq):
                begun.turn = self.n_steps + 1
                turns.append(Turn(job, begun, n_past, begun.tokens[n_past : n_past + n]))
        return turns

    def _ahead(self, turn: Turn) -> Turn:
        """Let the only request there is read more than its last token: what may follow it."""
        self.alone = turn.job.id  # a draft model may take a while
        return replace(turn, guess=self._speculation.guess(turn.begun.writing, turn.begun.slot, turn.tokens[0]))

    def _read(self, turns: Sequence[Turn]) -> None:
        """Compute a batch; where that fails, smaller ones, so that one request's failure is no other's."""
        self.alone = turns[0].job.id if len(turns) == 1 else None
        started = time.perf_counter()
        status = self._context.decode_parts([turn.part for turn in turns])
        self.alone = None
        self.n_steps += 1
        if status == OK:
            if len(turns) == 1:  # of which is learned what a step takes
                self._context.wait()
            self._took(turns, time.perf_counter() - started)
            return
        for turn in turns:
            turn.begun.slot.resynchronize()
        if status == CANCELLED:  # by a request that is gone with the next look at what came
            return
        if turns[0].guess:  # there may be room for what is not guessed
            self._again([replace(turns[0], guess=())])
        elif status == NO_ROOM and self._make_room():
            self._again(turns)
        elif status == NO_ROOM and turns[0].begun.read_at is not None and len(self._active) == 1:
            turns[0].begun.writing.reason = "context"
            self._end(turns[0].job)
        elif len(turns) > 1:
            self._again(turns[: len(turns) // 2])
            self._again(turns[len(turns) // 2 :])
        else:
            self._read_less(turns[0], status)

    def _again(self, turns: Sequence[Turn]) -> None:
        """Compute what can still be computed of a batch that failed: who lost its memory has to begin anew."""
        due = [turn for turn in turns if turn.job in self._active and turn.is_due]
        if due:
            self._read(due)

    def _read_less(self, turn: Turn, status: int) -> None:
        half = turn.tokens[: len(turn.tokens) // 2]
        if half:
            self._again([Turn(turn.job, turn.begun, turn.start, half)])
        else:
            self._fail(turn.job, failed_decode(status, len(turn.tokens), turn.start, self._context))

    def _make_room(self) -> bool:
        """Where all share their cells and none is free: forget what no request needs, or let the newest one wait.

        It goes on later where it was, so that nobody's answer is cut off by another's. False where only one is left.
        """
        holding = [slot for slot in self._free() if slot.past]
        if holding:
            min(holding, key=lambda slot: slot.used).forget()
            return True
        if len(self._active) < 2:
            return False
        newest = max(self._active, key=_used)
        assert newest.begun is not None
        newest.begun.slot.forget()
        self._active.remove(newest)
        self._waiting.appendleft(newest)
        self._is_crowded = True
        return True

    def _took(self, turns: Sequence[Turn], seconds: float) -> None:
        n_writing = sum(turn.begun.is_writing for turn in turns)
        self._pace.took(n_writing, sum(len(turn.tokens) for turn in turns) - n_writing, seconds)
        row, drawn = -1, []
        for turn in turns:
            row += len(turn.tokens)
            if turn.draws:
                drawn.append((turn, row))
            self._remember(turn.begun, turn.part.tokens)
        now = time.perf_counter()
        is_plain = len(turns) == 1 == n_writing
        for turn, last in drawn:
            turn.job.tell_read(now)
            self._draw(turn, last, seconds if is_plain else None)
        for turn in turns:
            turn.job.tell_progress()

    def _remember(self, begun: Begun, tokens: Sequence[int]) -> None:
        if begun.read_at is None:
            begun.n_read += len(tokens)
        begun.slot.past.extend(tokens)

    def _draw(self, turn: Turn, row: int, seconds: float | None) -> None:
        begun = turn.begun
        with contained(partial(self._fail, turn.job)):
            found = self._speculation.verify(begun.writing, begun.slot, turn.guess, row=row, seconds=seconds)
            begun.tokens.extend(turn.guess[: found.n_right])
            if found.token is None:
                self._end(turn.job)
            else:
                begun.tokens.append(found.token)

    def _read_an_image(self) -> None:
        """Read one image, if one is due: it takes long, and a batch of its own."""
        for job in self._active:
            begun = job.begun
            if begun is None or begun.leader is not None or not begun.n_left:
                continue
            n_past = len(begun.slot.past)
            if (token := begun.tokens[n_past]) >= 0:
                continue
            assert self._vision is not None
            span = self._vision.span(token)
            status = self._vision.read(span, self._context, (begun.slot.seq, n_past))
            if status == OK:
                self._remember(begun, [token] * span.n_pos)
            else:
                begun.slot.resynchronize()
                if status != CANCELLED:
                    self._fail(job, failed_decode(status, span.n_pos, n_past, self._context))
            return

    # ---- the end of a request

    def _end(self, job: Job) -> None:
        """Say the last word; what the slot holds may serve the owner's next request."""
        begun = job.begun
        if begun is not None and job.request.raw is None and job in self._active:  # else the slot may be another's
            begun.slot.remembered = begun.writing.known() or begun.prompt
        self._drop(job)
        job.finish()

    def _fail(self, job: Job, error: LLMRunError) -> None:
        self._drop(job)
        job.say(failure_of(error))

    def _drop(self, job: Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        if job in self._active:
            self._active.remove(job)
            self._is_crowded = False
        if job.begun is not None:
            job.begun.writing.close()


def _seq(job: Job) -> int:
    return -1 if job.begun is None else job.begun.slot.seq


def _used(job: Job) -> int:
    return -1 if job.begun is None else job.begun.slot.used
