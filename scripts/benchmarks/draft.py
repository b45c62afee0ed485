"""Guessing against plain steps, with guesses that are right as often as one likes.

Those of a script cost nothing; those of a draft model what a model of its size costs: both it and the model that it
guesses for are real shapes whose layers are computed and add nothing, so that what they write is known.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Mapping
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
from llmrun.worker.draft_model import DraftModel, load_draft
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
from scripts.synthetic import FIRST_FILLER, LETTERS, LLAMA_1_2B, QWEN3_0_6B, Shape, write_model

TURNS = 6
N_TOKENS = 64
CHANCES = (0.0, 0.3, 0.6, 0.9)
_CHEAP = 2.0  # steps that four tokens in one may cost where guesses are to pay
_BARS = {2: 2.0, 4: _CHEAP, 8: 8.0}
_PROMPT = "abcdefghijklmnopqrstuvwxyz" * 2
# after each letter the next: where layers add nothing, no rounding of another batch size leads to another token
_ALPHABET = {token: LETTERS[(index + 1) % len(LETTERS)] for index, token in enumerate(LETTERS)}
_BASE = replace(LLAMA_1_2B, tied=False)
_DRAFT = Shape("llama", 6, 512, 2048, 8, 4, 64, 128256, 131072, tied=False)
_TEMPLATE = "{{ messages[-1].content }}"
_NOBODY = partial(ScriptedDrafter, (), 0, 0.0)  # who guesses nothing


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
        write_model(path, replace(QWEN3_0_6B, tied=False), mix="Q4_K_M", template=_TEMPLATE, chain=_ALPHABET)
    bench = _load(path)
    rows = bench.costs()
    gain = 1.3 if rows[1].ratio < _CHEAP else 0.97
    bars = {0.0: 0.97, 0.6: gain}
    rows += [bench.gain(chance, bars.get(chance, 0.97)) for chance in CHANCES]
    bench.close()
    return rows + _measure_models(folder, {0.0: 0.97, 0.8: 0.97, 1.0: gain})


def _measure_models(folder: Path, bars: Mapping[float, float]) -> list[Row]:
    """Gain with a draft model, its own time included, for a model more than ten times as large."""
    bench = _load(_chained(folder / "chained-1.2b-Q4_K_M.gguf", _BASE, 1.0))
    rows = []
    for chance, bar in bars.items():
        path = _chained(folder / f"draft-{chance:g}-Q4_K_M.gguf", _DRAFT, chance)
        draft = load_draft(path, bench.settings, bench.model, CancelFlag(), lambda _: True)
        rows.append(bench.gain_of(draft, f"draft model, {chance:g} right, 1.2B Q4_K_M by 0.1B", bar))
        draft.close()
    bench.close()
    return rows


def _chained(path: Path, shape: Shape, chance: float) -> Path:
    """Write a model that says one token after the other; with a chance, else another one, where it only guesses."""
    if not path.exists():
        tokens, coin = [*LETTERS, *range(FIRST_FILLER, 4000)], random.Random(7)
        following = {token: tokens[(place + 1) % len(tokens)] for place, token in enumerate(tokens)}
        chain = {token: after if coin.random() < chance else token for token, after in following.items()}
        write_model(path, shape, mix="Q4_K_M", template=_TEMPLATE, chain=chain)
    return path


def _load(path: Path) -> _Bench:
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
        return _Bench(Context(model, settings, CancelFlag()), settings)


class _Bench:
    def __init__(self, context: Context, settings: RunSettings) -> None:
        self._context, self.model, self.settings = context, context.model, settings
        self._encoder = encoder = PromptEncoder(self.model.vocabulary, load_chat_template(self.model))
        ends = filter(encoder.vocabulary.is_end, range(encoder.vocabulary.n_tokens))
        self._endless = Penalties(logit_bias=tuple((token, -100.0) for token in ends))

    def close(self) -> None:
        """Free the model."""
        self._context.close()
        self.model.close()

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
        true = self._write(_NOBODY, Governor(0))

        def script(turn: int) -> Callable[[], Drafter]:
            return partial(ScriptedDrafter, true.tokens, true.n_prompt, chance, turn)

        return self._compare(f"draft, {chance:g} of guesses right, 0.6B Q4_K_M", bar, true, script)

    def gain_of(self, draft: DraftModel, name: str, bar: float) -> Row:
        """The same, with the guesses of a model."""
        true = self._write(_NOBODY, Governor(0))
        return self._compare(name, bar, true, None, draft)

    def _compare(
        self,
        name: str,
        bar: float,
        true: Written,
        script: Callable[[int], Callable[[], Drafter]] | None,
        draft: DraftModel | None = None,
    ) -> Row:
        governor, off = Governor(DEFAULT_DRAFT), Governor(0)
        ours, theirs, guessed = [], [], []
        for turn in range(TURNS):
            if turn % 2:
                theirs.append(self._write(_NOBODY, off).speed)
            found = self._write(_NOBODY if script is None else script(turn), governor, draft)
            ours.append(found.speed)
            if not turn % 2:
                theirs.append(self._write(_NOBODY, off).speed)
            guessed.append(found.guessed)
            if found.tokens != true.tokens:
                print("note: another batch size rounded to another token: guesses after it were wrong", file=sys.stderr)
        row = Row(name, "tok/s", tuple(ours), tuple(theirs), bar)
        print(f"{row.name}: {row.ratio:.3f}; {guessed[-1]} in the last turn", file=sys.stderr)
        return row

    def _write(
        self, make_drafter: Callable[[], Drafter], governor: Governor, draft: DraftModel | None = None
    ) -> Written:
        cancel = CancelFlag()
        self._context.clear()
        speculation = Speculation(self._context, make_drafter, governor, draft)
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
