"""What is fastest on this machine, chosen from timings, and as a wish to the planner. Pure.

A tuned value stands between what the user said and the default: it never overrules the first, and gives way to the
second where it does not fit. What costs quality, as a quantized KV cache does, is never chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

from llmrun.planning.timing import Timing
from llmrun.settings import AFFINITIES, MAX_THREADS, Constraints, RunSettings

Measure = Literal["write", "read", "answer"]
Value = int | bool | str | None

# A question and its answer, tokens: what is weighed by both is weighed by these, as in planning.repacking.
PROMPT, ANSWER = 512, 256
# What a choice must win by, as a part, and in how many turns at least: llama-bench repeats within 1 to 2 % on a quiet
# machine (2026-11, 2 cores of an EPYC); of two equals one is ahead in five turns of five once in 32 times.
MARGIN, FEWEST_TURNS = 0.03, 5
_BEHIND = 8  # in one of so many turns it may be the slower one: other work comes and goes
# A batch that may be chosen: more than n_batch of llmrun.settings is never computed at once.
_UBATCHES = range(32, 513)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How much faster an option is than the default.

    ratio: the default's seconds over the option's, the median of the turns; spread: how far the middle half of them
    reaches, as a part of it. n_behind: turns in which it was not the faster one.
    """

    ratio: float
    spread: float
    n_turns: int
    n_behind: int = 0

    @property
    def wins(self) -> bool:
        """Whether it is clearly faster: by MARGIN, and by more than its spread, in enough turns and nearly all."""
        steadily = self.n_turns >= FEWEST_TURNS and self.n_behind <= self.n_turns // _BEHIND
        return steadily and self.ratio - 1 >= max(MARGIN, self.spread)


def seconds(timing: Timing, measure: Measure) -> tuple[float, ...]:
    """Return what counts of a timing, turn by turn: seconds of a token, or of an answer to a question."""
    if measure == "answer":
        turns = zip(timing.read, timing.write, strict=False)
        return tuple(PROMPT * read + ANSWER * write for read, write in turns)
    return timing.write if measure == "write" else timing.read


def judge(default: Sequence[float], option: Sequence[float]) -> Verdict:
    """Return how an option stands beside the default, turn by turn; no turns are no reason to prefer it."""
    ratios = sorted(was / now for was, now in zip(default, option, strict=False) if now > 0)
    if not ratios:
        return Verdict(1.0, 0.0, 0)
    quarter, middle = len(ratios) // 4, median(ratios)
    spread = (ratios[-1 - quarter] - ratios[quarter]) / middle if middle else 0.0
    return Verdict(middle, spread, len(ratios), sum(ratio <= 1 for ratio in ratios))


def best(verdicts: Sequence[Verdict]) -> int | None:
    """Return which of the options is to be taken in the place of the default, None where none wins."""
    winning = [index for index, verdict in enumerate(verdicts) if verdict.wins]
    return max(winning, key=lambda index: verdicts[index].ratio, default=None)


@dataclass(frozen=True, slots=True)
class Tuned:
    """A setting whose value was measured to be faster than the default, by a ratio of what `measure` names."""

    setting: str
    value: int | bool | str
    ratio: float
    measure: Measure

    @property
    def note(self) -> str:
        """Why, for people."""
        gain = {"write": "writes", "read": "reads", "answer": "answers"}[self.measure]
        return f"measured here: {gain} {self.ratio:.2f} times as fast"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found to pay for models of a kind, on the host or on devices; empty is that the defaults are best."""

    choices: tuple[Tuned, ...] = ()
    on_devices: bool = False

    def applied(self, settings: RunSettings, constraints: Constraints) -> RunSettings:
        """Return settings with what was tuned, except for repacking and what the user fixed.

        Threads only become fewer: there may be fewer processors free now than there were. One alone is never bound:
        nobody measured that.
        """
        changes: dict[str, Any] = {}
        for one in self.choices:
            if one.setting in _THREADS:
                if constraints.n_threads is None:
                    changes[one.setting] = min(int(one.value), getattr(settings, one.setting))
            elif one.setting != "repack":
                changes[one.setting] = one.value
        found = replace(settings, **changes)
        return found if _n_threads(found) > 1 else replace(found, affinity=settings.affinity)

    def reasons(self, settings: RunSettings, constraints: Constraints) -> Mapping[str, str]:
        """Return for each setting that is as it was tuned the reason, for people."""
        own = frozenset(() if constraints.n_threads is None else _THREADS)
        return {
            one.setting: one.note
            for one in self.choices
            if one.setting not in own and getattr(settings, one.setting) == one.value
        }


_THREADS = ("n_threads", "n_threads_batch")


def _n_threads(settings: RunSettings) -> int:
    return max(settings.n_threads, settings.n_threads_batch)


def is_tunable(setting: str, value: object) -> bool:
    """Tell whether a setting may be tuned to a value: what a file says is believed only then."""
    match setting:
        case "n_threads" | "n_threads_batch":
            return type(value) is int and 1 <= value <= MAX_THREADS
        case "n_ubatch":
            return type(value) is int and value in _UBATCHES
        case "repack":
            return type(value) is bool
        case "affinity":
            return value in AFFINITIES[1:]
        case "flash_attn":
            return value is False  # the default is llama.cpp's own choice, which is to use it where it can
        case _:
            return False


def _fitting(settings: RunSettings, tunings: Sequence[Tuning]) -> Tuning:
    """Return what was tuned where the layers are."""
    on_devices = bool(settings.n_gpu_layers)
    return next((one for one in tunings if one.on_devices == on_devices), Tuning())


def applied(settings: RunSettings, tunings: Sequence[Tuning], constraints: Constraints) -> RunSettings:
    """Return settings as they were tuned where their layers are."""
    return _fitting(settings, tunings).applied(settings, constraints)


def reasons(settings: RunSettings, tunings: Sequence[Tuning], constraints: Constraints) -> Mapping[str, str]:
    """Return for each setting that is as it was tuned the reason, for people."""
    return _fitting(settings, tunings).reasons(settings, constraints)


def repacks(usual: bool, tunings: Sequence[Tuning]) -> bool:
    """Return whether weights on the host are worth repacking; usual: what is thought where that was not tuned."""
    choices = _fitting(RunSettings(n_gpu_layers=0), tunings).choices
    return next((bool(one.value) for one in choices if one.setting == "repack"), usual)
