"""What is worth timing beside the defaults, round by round, and what the times of a round say. Pure.

Each round begins with the settings that won so far, and asks one thing of them or two that the same timings answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from llmrun.planning.timing import Timing, Way
from llmrun.planning.tuning import ANSWER, FEWEST_TURNS, PROMPT, Measure, Tuned, Value, Verdict, best, judge, seconds
from llmrun.settings import RunSettings

_WRITTEN = 8  # tokens of a turn, of which the first is not counted
_TURNS = FEWEST_TURNS + 1  # for which a round's time must do
_SHORTEST = 16  # tokens of a prompt: fewer are not computed as a batch is
_DEPTHS = (1024, 512, 256)  # tokens in the cache where attention is compared
_UBATCHES = (128, 256, 512)
_MOST_THREADS = 4  # options beside the default


@dataclass(frozen=True, slots=True)
class Aim:
    """What a round asks: a setting, and what it is judged by. kept: whether a winner is to be used from then on."""

    setting: str
    measure: Measure
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Round:
    """Options that are timed beside the settings so far; `changes` are each option's.

    n_past: tokens in the cache. n_read: tokens of a prompt in each turn, None is one batch of each way's own size.
    least_threads: with fewer there is nothing to ask.
    """

    name: str
    aims: tuple[Aim, ...]
    changes: tuple[Mapping[str, Any], ...]
    n_past: int = 0
    n_read: int | None = _UBATCHES[0]
    n_write: int = _WRITTEN
    least_threads: int = 1

    def asks(self, settings: RunSettings) -> bool:
        """Tell whether there is anything to ask of some settings."""
        return max(settings.n_threads, settings.n_threads_batch) >= self.least_threads

    def ways(self, settings: RunSettings) -> tuple[Way, ...]:
        """Return the default and the options, as they are timed."""
        n_ctx = self.n_past + (self.n_read or _UBATCHES[-1]) + self.n_write + 1
        shared = replace(settings, n_ctx=n_ctx, n_seq_max=1, n_outputs_max=1, n_batch=max(512, settings.n_batch))
        all_settings = [replace(shared, **change) for change in ({}, *self.changes)]
        return tuple(
            Way(one, one.n_ubatch if self.n_read is None else self.n_read, self.n_write) for one in all_settings
        )

    def cost(self, ways: Sequence[Way], read: float, write: float) -> float:
        """Return the seconds of a turn, where a token is read and written in so many."""
        return sum(way.n_read * read + way.n_write * write for way in ways)

    def within(self, budget: float, settings: RunSettings, read: float, write: float) -> Round | None:
        """Return the round as it fits into so many seconds, with less to read; None where it does not."""
        ways = self.ways(settings)
        tries = [self]
        if self.n_past:
            tries = [replace(self, n_past=depth) for depth in _DEPTHS if depth <= self.n_past]
        if self.n_read is not None:
            tries += [replace(tries[-1], n_read=n) for n in (64, 32, _SHORTEST) if n < self.n_read]
        for tried in tries:
            ways = tried.ways(settings)
            before = len(ways) * (tried.n_past * read + write)
            if before + _TURNS * tried.cost(ways, read, write) <= budget:
                return tried
        return None


@dataclass(frozen=True, slots=True)
class Option:
    """A value, how fast it was (tokens a second, the median of its turns), and how it stands beside the default."""

    value: Value
    speed: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Found:
    """What a round found out about one setting: the default first, and which option is taken.

    note: why nothing was taken, or could be.
    """

    aim: Aim
    options: tuple[Option, ...]
    chosen: int = 0
    note: str = ""

    @property
    def default(self) -> Option:
        """The option that holds where nothing wins."""
        return self.options[0]

    @property
    def taken(self) -> Option:
        """The option that is used from now on."""
        return self.options[self.chosen]


def rounds(
    settings: RunSettings, *, repackable: bool, threads_fixed: bool, on_devices: bool, affinities: Sequence[str] = ()
) -> tuple[Round, ...]:
    """Return what is to be timed beside some settings, in order.

    repackable: whether the host has a layout of its own for some of the weights. threads_fixed: whether the user named
    the number of threads. affinities: those that threads can have here.
    """
    found = []
    counts = () if threads_fixed else thread_counts(settings.n_threads)
    if counts:
        aims = (Aim("n_threads", "write"), Aim("n_threads_batch", "read"))
        found.append(Round("threads", aims, tuple({"n_threads": n, "n_threads_batch": n} for n in counts)))
    others = tuple({"affinity": one} for one in affinities if one != settings.affinity)
    if others and not on_devices:
        found.append(Round("affinity", (Aim("affinity", "answer"),), others, least_threads=2))
    if repackable and not on_devices:
        found.append(Round("repacking", (Aim("repack", "answer"),), ({"repack": not settings.repack},)))
    sizes = tuple({"n_ubatch": size} for size in _UBATCHES if size != settings.n_ubatch)
    found.append(Round("batches", (Aim("n_ubatch", "read"),), sizes, n_read=None, n_write=0))
    if settings.type_k == settings.type_v == "f16":
        aims = (Aim("flash_attn", "answer"), Aim("type_k", "answer", kept=False))
        changes: tuple[Mapping[str, Any], ...] = ({"flash_attn": False}, {"type_k": "q8_0", "type_v": "q8_0"})
        found.append(Round("attention", aims, changes, n_past=_DEPTHS[0], n_read=64))
    return tuple(one for one in found if one.asks(settings))


def thread_counts(n: int) -> tuple[int, ...]:
    """Return numbers of threads to try beside n, the largest first; all smaller ones where they are few."""
    if n <= _MOST_THREADS + 1:
        return tuple(range(n - 1, 0, -1))
    return tuple(dict.fromkeys((n - 1, 3 * n // 4, n // 2, n // 4)))[:_MOST_THREADS]


def findings(round_: Round, ways: Sequence[Way], timings: Sequence[Timing]) -> tuple[Found, ...]:
    """Return what the timings of a round say about each of its aims."""
    return tuple(_finding(aim, ways, timings) for aim in round_.aims)


def _finding(aim: Aim, ways: Sequence[Way], timings: Sequence[Timing]) -> Found:
    values = [getattr(way.settings, aim.setting) for way in ways]
    # the default, and the ways that differ from it in what is asked
    mine = [0, *(index for index in range(1, len(ways)) if values[index] != values[0])]
    figures = [seconds(timings[index], aim.measure) for index in mine]
    verdicts = [judge(figures[0], figure) for figure in figures]
    n_tokens = PROMPT + ANSWER if aim.measure == "answer" else 1
    options = tuple(
        Option(values[index], n_tokens / median(figure) if figure else 0.0, verdict)
        for index, figure, verdict in zip(mine, figures, verdicts, strict=True)
    )
    won = best(verdicts[1:])
    if won is None:
        return Found(aim, options)
    if not aim.kept:
        return Found(aim, options, note="faster, and it costs quality: only where you ask for it")
    return Found(aim, options, won + 1)


def taken(settings: RunSettings, found: Sequence[Found]) -> RunSettings:
    """Return settings with what won in a round."""
    changes: dict[str, Any] = {one.aim.setting: one.taken.value for one in found if one.chosen}
    return replace(settings, **changes)


def tuned(found: Sequence[Found]) -> tuple[Tuned, ...]:
    """Return what is to be remembered of all rounds."""
    return tuple(
        Tuned(one.aim.setting, one.taken.value, one.taken.verdict.ratio, one.aim.measure)
        for one in found
        if one.chosen and one.taken.value is not None
    )
