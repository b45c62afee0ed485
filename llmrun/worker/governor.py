"""How many guessed tokens to verify in a step: as many as pay on this machine, by what steps took so far. Pure.

A step that verifies k guesses costs r(k) steps of one token and brings 1 + p₁(1 + p + … + pᵏ⁻¹) tokens, where the first
guess is right with probability p₁ and each further one with p. Both are learned: p from guesses that were verified, and
as well from those that were only held against what the model then wrote, which costs nothing; r(k) from the steps.
What drawing a token costs is in neither, because it is paid a token and not a step.

Nothing is believed that could cost much: what guessing won and lost against plain steps is kept in an account, which
time fills slowly. While it is empty nothing is guessed. So over all answers no more is ever lost than _INCOME of the
time, _FIRST_CREDIT and by how much a single step was wrong, whatever the texts; within an answer, _MOST_CREDIT of what
was won before. A step is taken to cost no more than its tokens one by one: what it takes beyond that is put down to
whatever else ran, and is in no account. What steps took is forgotten, if slowly: a compiler may have run beside them.

A draft model's guesses have a price besides, before anybody knows what they are: k of them take c·k plain steps. So
they are asked for where (1 + p₁(1 + p + … + pᵏ⁻¹)) / (r(k) + c·k) promises more than plain steps, and more than what
the conversation itself lets guess for nothing; p₁ and p are then of all that is asked for, with the guesses that it did
not dare to make among the wrong ones. Once they are there their price is paid: whether to verify them is decided as
above. While they do not pay a few are asked for at times, to see whether that changed, out of what the account has
above _TRIED_FROM, which is left to guesses that cost nothing. What comes in while the account is full is saved
for what the draft model has to read before it can guess.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from llmrun.worker.drafting import MODEL_STRENGTH

_INCOME = 0.01  # of the time that is spent, on searching and on trying
# Plain steps that may be lost once for each model that is loaded, and at once of those that were won. Where guesses
# gain little they lose often: 2 cores with AMX, 0.6 right, of the factor of 1.21 that there is it is 1.01 with 1 and 4,
# and 1.17 with 4 and 8. Where batches are dear (AVX2: 8 tokens, of which 7 are wrong, lose 5 steps) a run of good
# guesses does not go on after a wrong one with 2: at 0.97 right it gained 1.30 there of 1.44.
_FIRST_CREDIT, _MOST_CREDIT = 4.0, 8.0
_TRIED_FROM = 1.0  # plain steps in the account above which what does not pay is tried
_TRIED = 3  # guesses that are asked for then
_DRAFT_CHANCE = 0.7  # that a draft model is right, before anything was seen of it
_LEAST_PRICE = 0.01  # plain steps: none is less
_LEAST_READING = 1e-9  # seconds to read a token
_FIRST_READ = 64  # tokens a draft model reads before it is known what that takes
_LEAST_TIMED = 16  # tokens: reading fewer of them tells little of what a token takes
_PAYS = 1.05  # how much faster than plain steps guessing must promise to be
_KEPT = 0.98  # of what was seen of a kind of guess, at each new one: the last 50 count
_KINDS = 8  # of guesses that are told apart, by strength; stronger ones are one kind
_HOPE = 0.1  # what another token in a step costs at the least: less than on any machine that was measured
_DOUBT = 0.9  # of what is expected of steps of a size that was never taken, so that one is taken at times
_BELIEVED = 3  # steps of a size: one that something else disturbed must not decide
_FORGOTTEN_EVERY = 128  # steps: what was disturbed, or seen beside a compiler, must not hold for ever
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


def _trusted() -> _Kind:
    """Return a kind that is likely to be right."""
    return _Kind(_Chance(2 * _DRAFT_CHANCE), _Chance(2 * _DRAFT_CHANCE))


class Governor:
    """What was learned of one model on one machine, over all its answers.

    n_most: guesses in a step at most.
    """

    def __init__(self, n_most: int) -> None:
        self.n_most = n_most
        self._plain: deque[float] = deque(maxlen=8)  # seconds of steps of one token
        self._costs: dict[int, deque[float]] = {}  # by number of guesses, in plain steps
        self._kinds = [_Kind() for _ in range(_KINDS)]
        self._draft_kinds = [_trusted() for _ in range(_KINDS)]
        self._asked = _trusted()  # whatever the draft model guesses, or does not
        self._prices: deque[float] = deque(maxlen=8)  # of one of its guesses, in plain steps
        self._readings: deque[float] = deque(maxlen=4)  # seconds it took to read a token
        self._is_warm = False
        self._saved = 0.0  # seconds that may be lost on its reading
        self._account: float | None = None  # seconds that may be lost
        self._since_plain = self._n_steps = 0

    def may_search(self) -> bool:
        """Whether there is time to look for a guess."""
        return self.n_most > 0 and self._account is not None and self._account > 0

    def choose(self, n_there: int, strength: int) -> int:
        """Return how many of n_there guesses of a kind to verify in the next step; 0 is a plain one.

        What was asked for was paid for, which may have emptied the account: then most is lost by leaving it.
        """
        may_lose = self.may_search() or strength >= MODEL_STRENGTH
        if not may_lose or self._since_plain >= _PLAIN_EVERY:
            return 0
        return self._best(n_there, self._kind(strength), 0.0, _PAYS)

    def gain(self, n: int, strength: int) -> float:
        """Return how many times as fast as plain steps one with n guesses of a kind promises to be."""
        return self._kind(strength).tokens(n) / self._cost(n)

    def ask(self, n_most: int, beside: float, *, may_try: bool = True) -> int:
        """Return how many guesses to ask a draft model for, n_most at most; 0 is none.

        beside: the gain that there is without it. may_try: whether it helps to learn how good it is.
        """
        if not self.may_search() or self._since_plain >= _PLAIN_EVERY:
            return 0
        price = median(self._prices) if self._prices else None
        if price is not None and (best := self._best(n_most, self._asked, price, max(_PAYS, beside))):
            return best
        if not may_try or self._account is None:
            return 0
        spare = self._account / self._plain_seconds - _TRIED_FROM
        n = min(n_most, _TRIED, int(spare / max(price, _LEAST_PRICE))) if price is not None else int(spare > 0)
        return max(0, n)

    def _best(self, n_there: int, kind: _Kind, price: float, least: float) -> int:
        """Return with how many guesses of a price, in plain steps, most is gained; 0 where that is not the least."""
        best, best_gain = 0, least
        for n in range(1, min(n_there, self.n_most) + 1):
            gain = kind.tokens(n) / (self._cost(n) + price * n)
            if gain > best_gain and (self._is_believed(n) or self._can_afford(n, kind, price)):
                best, best_gain = n, gain
        return best

    def n_readable(self) -> int:
        """Return how many tokens a draft model may read, so that half of what there is for that is left."""
        if self._account is None:
            return 0
        if not self._readings:
            return _FIRST_READ
        return int((max(self._account, 0.0) + self._saved) / 2 / median(self._readings))

    def read(self, n_tokens: int, seconds: float) -> None:
        """Count what a draft model took to read tokens."""
        if n_tokens >= _LEAST_TIMED:
            self._readings.append(max(seconds / n_tokens, _LEAST_READING))
        paid = min(seconds, self._saved)
        self._saved -= paid
        self.spent(seconds - paid)

    def paid(self, n_guesses: int, seconds: float) -> None:
        """Count what guesses of a draft model took; the first tells nothing, which finds its weights on the disk."""
        if self._is_warm and self._plain:
            self._prices.append(seconds / n_guesses / self._plain_seconds)
        self._is_warm = True
        self.spent(seconds)

    def spent(self, seconds: float) -> None:
        """Count time that only guessing took."""
        if self._account is not None:
            self._account -= seconds

    def took(self, n_guessed: int, n_right: int, seconds: float) -> None:
        """Learn what a step took that verified so many guesses, of which so many were right."""
        self._n_steps += 1
        if self._n_steps % _FORGOTTEN_EVERY == 0:
            self._forget()
        if n_guessed == 0:
            self._plain.append(seconds)
            self._since_plain = 0
            if self._account is None:
                self._account = _FIRST_CREDIT * seconds
        elif self._account is not None:
            plain = self._plain_seconds
            cost = min(seconds / plain, 1.0 + n_guessed)  # beyond its tokens one by one, something else disturbed it
            self._costs.setdefault(n_guessed, deque(maxlen=8)).append(cost)
            self._since_plain += 1
            self._account += (1 + n_right - cost) * plain
        if self._account is not None:
            full, most = self._account + _INCOME * seconds, _MOST_CREDIT * self._plain_seconds
            self._account = min(full, most)
            self._saved += max(0.0, full - most)

    def saw(self, strength: int, n_right: int, *, wrong: bool, ends: bool = False) -> None:
        """Learn how good a guess was: n_right tokens, and whether a wrong one came after them, or none (Draft.ends)."""
        self._kind(strength).saw(n_right, wrong=wrong)
        if strength >= MODEL_STRENGTH:
            self._asked.saw(n_right, wrong=wrong or ends)

    @property
    def _plain_seconds(self) -> float:
        return median(self._plain)

    def _kind(self, strength: int) -> _Kind:
        if strength >= MODEL_STRENGTH:
            return self._draft_kinds[min(strength - MODEL_STRENGTH, _KINDS - 1)]
        return self._kinds[min(strength, _KINDS - 1)]

    def _can_afford(self, n: int, kind: _Kind, price: float) -> bool:
        """Whether a step of a size that is not yet known can be tried, if it were no better than its tokens one by one.

        price: of each guess, where that is still to be paid. Steps of a size below or above tell more: no larger step
        is cheaper.
        """
        above = [_undisturbed(costs) for size, costs in self._costs.items() if size > n]
        worst = min([1.0 + n, *above])
        return (worst + price * n - kind.tokens(n)) * self._plain_seconds <= (self._account or 0.0)

    def _forget(self) -> None:
        """Forget the oldest of the steps of each size."""
        for costs in self._costs.values():
            costs.popleft()
        self._costs = {size: costs for size, costs in self._costs.items() if costs}

    def _cost(self, n: int) -> float:
        """Return r(n): as measured, in part where few steps were; else what may be hoped for."""
        if self._is_believed(n):
            return _undisturbed(self._costs[n])
        return (self._hoped(n) + min(self._costs[n])) / 2 if n in self._costs else self._hoped(n)

    def _is_believed(self, n: int) -> bool:
        return len(self._costs.get(n, ())) >= _BELIEVED

    def _hoped(self, n: int) -> float:
        """Return r(n) from the sizes around it, with hope; with nothing known, the least there is."""
        known = sorted((size, _undisturbed(costs)) for size, costs in self._costs.items() if size != n)
        if not known:
            return 1 + _HOPE * n
        n0, cost0 = max([(0, 1.0), *(point for point in known if point[0] < n)])
        above = [point for point in known if point[0] > n]
        if not above:  # the first guess may be dear and those after it cheap: matrices of AMX are read by the tile
            return max(1.0, _DOUBT * (cost0 + _HOPE * (n - n0)))
        n1, cost1 = above[0]
        slope = max((cost1 - cost0) / (n1 - n0), 0.0)
        return max(1.0, _DOUBT * (cost0 + slope * (n - n0)))


def _undisturbed(costs: Sequence[float]) -> float:
    """Return the lower quartile: what disturbs can only slow down."""
    return sorted(costs)[(len(costs) - 1) // 4]
