"""How many guessed tokens to verify in a step: as many as pay on this machine, by what steps took so far. Pure.

A step that verifies k guesses costs r(k) steps of one token and brings 1 + p₁(1 + p + … + pᵏ⁻¹) tokens, where the first
guess is right with probability p₁ and each further one with p. Both are learned: p from guesses that were verified, and
as well from those that were only held against what the model then wrote, which costs nothing; r(k) from the steps.
What drawing a token costs is in neither, because it is paid a token and not a step.

Nothing is believed that could cost much: what guessing won and lost against plain steps is kept in an account, which
time fills slowly. While it is empty nothing is guessed. So over all answers no more is ever lost than _INCOME of the
time, _FIRST_CREDIT and by how much a single step was wrong, whatever the texts; within an answer, _MOST_CREDIT of what
was won before.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

_INCOME = 0.01  # of the time that is spent, on searching and on trying
# Plain steps that may be lost at once, of those that were won. With 2 a run of good guesses does not go on after a
# wrong one where batches are dear (2 cores with AVX2: 8 tokens, of which 7 are wrong, lose 5 steps): at 0.97 right it
# gained a factor of 1.30 there, with 4 it is 1.41 of 1.44 that there are.
_MOST_CREDIT = 4.0
_FIRST_CREDIT = 1.0
_PAYS = 1.05  # how much faster than plain steps guessing must promise to be
_KEPT = 0.97  # of what was seen of a kind of guess, at each new one: the last 33 count
_KINDS = 8  # of guesses that are told apart, by strength; stronger ones are one kind
_HOPE = 0.1  # what another token in a step costs at the least: less than on any machine that was measured
_DOUBT = 0.9  # of what is expected of steps of a size that was never taken, so that one is taken at times
_PLAIN_EVERY = 32  # steps: what a plain one costs changes with the load of the machine


@dataclass(slots=True)
class _Chance:
    """How often guesses at one place are right; before any was seen, so seldom that none is tried."""

    right: float = 0.3
    seen: float = 2.0

    def saw(self, *, right: bool) -> None:
        self.right = self.right * _KEPT + right
        self.seen = self.seen * _KEPT + 1

    @property
    def probability(self) -> float:
        return self.right / self.seen


@dataclass(slots=True)
class _Kind:
    """One kind of guess: its first token, and those after one that was right."""

    first: _Chance = field(default_factory=_Chance)
    later: _Chance = field(default_factory=_Chance)

    def saw(self, n_right: int, *, wrong: bool) -> None:
        for index in range(n_right + wrong):
            (self.later if index else self.first).saw(right=index < n_right)

    def tokens(self, n: int) -> float:
        """Return how many tokens a step with n guesses brings, on average."""
        p, more = self.later.probability, 1.0
        for _ in range(n - 1):
            more = 1 + p * more
        return 1 + self.first.probability * more


class Governor:
    """What was learned of one model on one machine, over all its answers. n_most: guesses in a step at most."""

    def __init__(self, n_most: int) -> None:
        self.n_most = n_most
        self._plain: deque[float] = deque(maxlen=8)  # seconds of steps of one token
        self._costs: dict[int, deque[float]] = {}  # by number of guesses, in plain steps
        self._kinds = [_Kind() for _ in range(_KINDS)]
        self._account: float | None = None  # seconds that may be lost
        self._since_plain = 0

    def may_search(self) -> bool:
        """Whether there is time to look for a guess."""
        return self.n_most > 0 and self._account is not None and self._account > 0

    def choose(self, n_there: int, strength: int) -> int:
        """Return how many of n_there guesses of a kind to verify in the next step; 0 is a plain one."""
        if not self.may_search() or self._since_plain >= _PLAIN_EVERY:
            return 0
        kind = self._kind(strength)
        best, best_gain = 0, _PAYS
        for n in range(1, min(n_there, self.n_most) + 1):
            gain = kind.tokens(n) / self._cost(n)
            if gain > best_gain and (n in self._costs or self._can_afford(n, kind)):
                best, best_gain = n, gain
        return best

    def spent(self, seconds: float) -> None:
        """Count time that only guessing took."""
        if self._account is not None:
            self._account -= seconds

    def took(self, n_guessed: int, n_right: int, seconds: float) -> None:
        """Learn what a step took that verified so many guesses, of which so many were right."""
        if n_guessed == 0:
            self._plain.append(seconds)
            self._since_plain = 0
            if self._account is None:
                self._account = _FIRST_CREDIT * seconds
        elif self._account is not None:
            plain = self._plain_seconds
            self._costs.setdefault(n_guessed, deque(maxlen=8)).append(seconds / plain)
            self._since_plain += 1
            self._account += (1 + n_right) * plain - seconds
        if self._account is not None:
            self._account = min(self._account + _INCOME * seconds, _MOST_CREDIT * self._plain_seconds)

    def saw(self, strength: int, n_right: int, *, wrong: bool) -> None:
        """Learn how good a guess was: n_right tokens, and whether a wrong one came after them."""
        self._kind(strength).saw(n_right, wrong=wrong)

    @property
    def _plain_seconds(self) -> float:
        return median(self._plain)

    def _kind(self, strength: int) -> _Kind:
        return self._kinds[min(strength, _KINDS - 1)]

    def _can_afford(self, n: int, kind: _Kind) -> bool:
        """Whether a step of a size that was never taken can be tried, if it were no better than its tokens one by one.

        Steps of a size below or above tell more: no larger step is cheaper.
        """
        above = [median(costs) for size, costs in self._costs.items() if size > n]
        worst = min([1.0 + n, *above])
        return (worst - kind.tokens(n)) * self._plain_seconds <= (self._account or 0.0)

    def _cost(self, n: int) -> float:
        """Return r(n): as measured, or from the sizes around it, with hope; with nothing known, the least there is."""
        if n in self._costs:
            return median(self._costs[n])
        known = sorted((size, median(costs)) for size, costs in self._costs.items())
        if not known:
            return 1 + _HOPE * n
        points = [(0, 1.0), *known]
        right = next((index for index, (size, _) in enumerate(points) if size > n), len(points) - 1)
        (n0, cost0), (n1, cost1) = points[right - 1], points[right]
        slope = max((cost1 - cost0) / (n1 - n0), 0.0)
        return max(1.0, _DOUBT * (cost0 + slope * (n - n0)))
