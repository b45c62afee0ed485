"""How many threads compute the next step, by how long the last ones took and what others leave. Pure: it is told.

llama.cpp's threads wait for each other after every operation: one that has to share its core holds up all others, and
two threads beside one busy process write at a third of their speed. So what others leave is believed first, where the
system tells it, and what steps really took decides: fewer threads are kept only where they were faster, and more are
tried again from time to time, at a price that is bounded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

# How much slower than before a step is when something must have happened. Steps grow with the context, so that "before"
# follows them: by this part a step at most.
_SLOW, _DRIFT = 1.4, 0.002
_COLLAPSED = (
    3.0  # times slower: one such step is enough. Two threads beside four others took 60 times as long (2026-11)
)
_SETTLED = 3  # steps, of which the middle one is believed
# Fewer threads must save a tenth, as noise does not; more only must not cost anything.
_FEWER_GAIN, _MORE_GAIN = 0.9, 0.98
_SHARE = 0.02  # of the time may be lost to trials that bring nothing, in each direction
_SOON = 8  # the first trial of more threads comes so many times sooner: most disturbances are short
_SPARE = 0.25  # processors: others who take no more than that hold up nobody
_LONG_STEP = 0.2  # seconds: longer ones are tried once, shorter ones twice, of which the faster one counts
_OLD = 60.0  # seconds of computing, after which what a number of threads took says nothing any more


def ladder(most: int) -> tuple[int, ...]:
    """Return the numbers of threads that are worth a trial, rising: few where there are many, most and 1 always.

    Near the most they lie close, because often only one or two processors are busy.
    """
    if most <= 8:
        return tuple(range(1, most + 1))
    numbers = {1, most // 4, most // 2, 3 * most // 4, most - 3, most - 2, most - 1, most}
    return tuple(sorted(number for number in numbers if number >= 1))


@dataclass(slots=True)
class _Trial:
    """Numbers of threads to be tried in turn, and what was seen: seconds of a step. before: as things were."""

    numbers: list[int]
    before: float
    seen: dict[int, float] = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> bool:
        """Take a step's seconds; returns whether nothing is left to be tried."""
        self.samples.append(seconds)
        if len(self.samples) < 2 and seconds < _LONG_STEP:
            return False
        best = min([self.before, *self.seen.values()])
        number, found = self.numbers.pop(0), min(self.samples)
        self.seen[number] = found
        self.samples.clear()
        # beyond the best number it only gets worse
        return not self.numbers or (best < _FEWER_GAIN * self.before and found > best)

    @property
    def best(self) -> int:
        """The number that was fastest."""
        return min(self.seen, key=self.seen.__getitem__)

    @property
    def loss(self) -> float:
        """Seconds more than without the trial."""
        return sum(2 * max(0.0, found - self.before) for found in self.seen.values())


class Headcount:
    """Chooses for steps of one kind. most: threads while nothing else runs. start: those to begin with."""

    def __init__(self, most: int, start: int | None = None) -> None:
        self._numbers = ladder(most)
        self._number = self._at_most(most if start is None else start)
        self._recent: deque[float] = deque(maxlen=_SETTLED)
        self._calm: float | None = None  # seconds of a step with this number, when nothing disturbed it
        self._known: dict[int, tuple[float, float]] = {}  # by number: when it was seen, and a step's seconds
        self._time = 0.0  # seconds computed
        self._trial: _Trial | None = None
        self._room: float | None = None
        self._rise_at = self._fall_at = self._alarm_at = 0.0  # when more, or fewer, may be tried
        self._is_new = True
        self.is_held = False

    @property
    def n_threads(self) -> int:
        """The threads for the next step."""
        return self._trial.numbers[0] if self._trial is not None else self._number

    def see(self, room: float | None) -> None:
        """Hear how many processors others leave, None where nobody can tell."""
        self._room = room

    def resume(self, room: float | None) -> None:
        """Begin again after a pause, in which all may have changed, with as many threads as there is room for."""
        self._room, self._trial = room, None
        if room is not None and (number := self._at_most(room + _SPARE)) != self._number:
            self._move(number)
        self._recent.clear()

    def hold(self, *, still: bool) -> None:
        """Let the number be as it is, or let it change again.

        It begins with as many as there is room for: fewer would be kept, however long ago it was that they were better.
        It is given up only where steps have collapsed, to a third of their speed and less.
        """
        if still and not self.is_held:
            self._trial = None
            number = self._at_most(self._numbers[-1] if self._room is None else self._room + _SPARE)
            if number > self._number and self._time >= self._rise_at:
                self._move(number)
        self.is_held = still

    def took(self, seconds: float) -> None:
        """Learn what a step took, which was computed with `n_threads`."""
        self._time += seconds
        if self._trial is not None:
            if self._trial.add(seconds):
                self._judge(self._trial)
            return
        self._recent.append(seconds)
        now = median(self._recent)
        is_settled = len(self._recent) == _SETTLED
        if self.is_held:
            self._save(seconds)
        elif is_settled or self._is_alarming(seconds):
            self._consider(now if is_settled else seconds)
        if not is_settled:
            return
        self._known[self._number] = self._time, now
        self._calm = now if self._calm is None else min(now, self._calm * (1 + _DRIFT))

    def _consider(self, now: float) -> None:
        """Begin a trial where something speaks for one."""
        fewer = [number for number in reversed(self._numbers) if number < self._number]
        more = [number for number in self._numbers if number > self._number]
        if fewer and self._is_crowded(now):
            self._fall(now)
        elif fewer and self._is_new and self._room is None:  # nobody tells, so the first tokens are measured
            self._trial = _Trial(sorted({self._number - 1, max(1, self._number // 2)} & set(fewer), reverse=True), now)
        elif more and self._time >= self._rise_at:
            fitting = [number for number in more if self._fits(number)]
            if fitting:
                self._trial = _Trial([fitting[0] if self._room is None else fitting[-1]], now)
        self._is_new = False

    def _save(self, seconds: float) -> None:
        """Give up threads although they are to be kept, where the steps have collapsed."""
        has_collapsed = self._calm is not None and seconds > _COLLAPSED * self._calm
        if has_collapsed and self._number > 1 and self._time >= self._alarm_at:
            self._fall(seconds)

    def _fall(self, now: float) -> None:
        """Try fewer threads; those that there is no room for are not tried."""
        fewer = [number for number in reversed(self._numbers) if number < self._number]
        if self._room is not None and (there := self._at_most(self._room + _SPARE)) < self._number:
            fewer = [number for number in fewer if number <= there]
        self._trial = _Trial(fewer, now)

    def _is_alarming(self, seconds: float) -> bool:
        return not self._fits(self._number) or (self._calm is not None and seconds > _COLLAPSED * self._calm)

    def _is_crowded(self, now: float) -> bool:
        if self._time >= self._alarm_at and self._calm is not None and now > _SLOW * self._calm:
            return True
        if self._time < self._fall_at:
            return False
        if not self._fits(self._number):
            return True
        known = [
            seconds
            for number, (when, seconds) in self._known.items()
            if number < self._number and self._time - when < _OLD
        ]
        return bool(known) and min(known) < _FEWER_GAIN * now

    def _fits(self, number: int) -> bool:
        return self._room is None or number <= self._room + _SPARE or number == 1

    def _judge(self, trial: _Trial) -> None:
        """Keep what a trial found best, or stay."""
        self._trial = None
        for number, seconds in trial.seen.items():
            self._known[number] = self._time, seconds
        best, is_more = trial.best, trial.best > self._number
        gain = _MORE_GAIN if is_more else _FEWER_GAIN
        if trial.seen[best] < gain * trial.before:
            lost = 2 * (trial.before - trial.seen[best])
            self._move(best)
            self._calm = trial.seen[best]
            # after a fall: what a trial of the old number would lose, if nothing has changed and nobody tells
            self._rise_at = self._time + (0.0 if is_more or self._room is not None else lost / _SHARE / _SOON)
            return
        self._recent.clear()
        self._calm = trial.before
        again = self._time + trial.loss / _SHARE + _SETTLED * trial.before
        if is_more:
            self._rise_at = again
        else:
            self._fall_at, self._alarm_at = again, self._time + trial.loss / _SHARE / _SOON

    def _move(self, number: int) -> None:
        self._number = number
        self._recent.clear()
        self._calm = None

    def _at_most(self, limit: float) -> int:
        return max((number for number in self._numbers if number <= limit), default=1)
