"""Guessing against plain steps, with guesses that are right as often as one likes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from llmrun.engine.protocol import Chunk, Event, Generate
from llmrun.hardware.threads import count_threads
from llmrun.message import RawPrompt
from llmrun.sampling import Penalties, Sampling
from llmrun.settings import DEFAULT_DRAFT, RunSettings
from llmrun.worker.batch import Part
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.chat_format import load_chat_template
from llmrun.worker.drafting import Drafter
from llmrun.worker.governor import Governor
from llmrun.worker.llama import Context, load_model, start_backend
from llmrun.worker.log import engine_log
from llmrun.worker.prompt import PromptEncoder
from llmrun.worker.session import Session
from llmrun.worker.slot import Slot
from llmrun.worker.speculation import Speculation
from scripts.benchmarks.scripted import ScriptedDrafter
from scripts.benchmarks.table import Row
from scripts.synthetic import LETTERS, QWEN3_0_6B, write_model

TURNS = 6
N_TOKENS = 64
CHANCES = (0.0, 0.3, 0.6, 0.9)
_CHEAP = 2.0  # steps that four tokens in one may cost where guesses are to pay
_BARS = {2: 2.0, 4: _CHEAP, 8: 8.0}
_PROMPT = "abcdefghijklmnopqrstuvwxyz" * 2
# after each letter the next: where layers add nothing, no rounding of another batch size leads to another token
_ALPHABET = {token: LETTERS[(index + 1) % len(LETTERS)] for index, token in enumerate(LETTERS)}


@dataclass(frozen=True, slots=True)
class Written:
    """An answer without its last token, and how fast it was."""

    tokens: tuple[int, ...]
    n_prompt: int
    speed: float
    guessed: str


def measure_draft(folder: Path) -> list[Row]:
    """Cost and gain on a 0.6B shape that writes the alphabet, with guesses by a script: its own would all be right."""
    path = folder / "alphabet-0.6b-Q4_K_M.gguf"
    if not path.exists():
        shape = replace(QWEN3_0_6B, tied=False)
        write_model(path, shape, mix="Q4_K_M", template="{{ messages[-1].content }}", chain=_ALPHABET)
    threads = count_threads()
    settings = RunSettings(
        n_ctx=1024,
        n_threads=threads,
        n_threads_batch=threads,
        repack=True,
        n_draft_max=DEFAULT_DRAFT,
        n_outputs_max=DEFAULT_DRAFT + 1,
    )
    start_backend()
    with engine_log().recording(quiet=True):
        model = load_model(path, settings)
        context = Context(model, settings, CancelFlag())
    bench = _Bench(context, PromptEncoder(model.vocabulary, load_chat_template(model)))
    rows = bench.costs()
    bars = {0.0: 0.97, 0.6: 1.3 if rows[1].ratio < _CHEAP else 0.97}
    return rows + [bench.gain(chance, bars.get(chance, 0.97)) for chance in CHANCES]


class _Bench:
    def __init__(self, context: Context, encoder: PromptEncoder) -> None:
        self._context, self._encoder = context, encoder
        ends = filter(encoder.vocabulary.is_end, range(encoder.vocabulary.n_tokens))
        self._endless = Penalties(logit_bias=tuple((token, -100.0) for token in ends))

    def costs(self) -> list[Row]:
        """What steps of several tokens cost beside steps of one."""
        self._context.decode(self._encoder.vocabulary.tokenize(_PROMPT * 2, parse_special=False), 0, want_logits=False)
        start = self._context.n_past()
        seconds = {n: list[float]() for n in (1, *_BARS)}
        for _ in range(TURNS):
            for n in seconds:
                before = time.perf_counter()
                self._context.decode_parts((Part(0, range(40, 40 + n), start, every_row=True),))
                self._context.wait()
                seconds[n].append(time.perf_counter() - before)
                self._context.drop(start, 0)
        plain = tuple(seconds[1])
        return [
            Row(f"draft, {n} tokens in a step, 0.6B Q4_K_M", "s", tuple(seconds[n]), plain, bar, at_least=False)
            for n, bar in _BARS.items()
        ]

    def gain(self, chance: float, bar: float) -> Row:
        """One answer with guesses and without, in turns; what was learned stays from turn to turn, as it does."""
        governor, off = Governor(DEFAULT_DRAFT), Governor(0)
        nobody = partial(ScriptedDrafter, (), 0, 0.0)
        true = self._write(nobody, off)
        ours, theirs, guessed = [], [], []
        for turn in range(TURNS):
            spoiled = partial(ScriptedDrafter, true.tokens, true.n_prompt, chance, turn)
            if turn % 2:
                theirs.append(self._write(nobody, off).speed)
            found = self._write(spoiled, governor)
            ours.append(found.speed)
            if not turn % 2:
                theirs.append(self._write(nobody, off).speed)
            guessed.append(found.guessed)
            if found.tokens != true.tokens:
                print("note: another batch size rounded to another token: guesses after it were wrong", file=sys.stderr)
        row = Row(f"draft, {chance:g} of guesses right, 0.6B Q4_K_M", "tok/s", tuple(ours), tuple(theirs), bar)
        print(f"{row.name}: {row.ratio:.3f}; {guessed[-1]} in the last turn", file=sys.stderr)
        return row

    def _write(self, make_drafter: Callable[[], Drafter], governor: Governor) -> Written:
        cancel = CancelFlag()
        self._context.clear()
        speculation = Speculation(self._context, make_drafter, governor)
        slot = Slot(self._context, 0)
        session = Session(self._context, slot, self._encoder, cancel, None, speculation)
        events: list[Event] = []
        request = Generate((), Sampling(temperature=0), N_TOKENS, raw=RawPrompt(_PROMPT), penalties=self._endless)
        session.answer(request, events.append)
        last = events[-1]
        assert isinstance(last, Chunk)
        usage = last.usage
        assert usage is not None
        tokens = tuple(slot.past[usage.prompt_tokens :])
        speed = (N_TOKENS - 1) / usage.completion_seconds
        return Written(
            tokens, usage.prompt_tokens, speed, f"{usage.accepted_tokens} of {usage.drafted_tokens} guesses right"
        )
