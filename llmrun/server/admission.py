"""Who may wait for a model: as many as its queue holds, and whoever comes then is told when to come again. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmrun.errors import QueueFullError

_LEAST_QUEUE = 32  # requests: what an editor, a page and a few scripts send at once, whatever the slots
_PER_SLOT = 4  # requests: who is the last of them waits for about four answers
_NEWEST = 0.2  # weight of the newest answer in the mean of how long they take
_LONGEST = 60.0  # seconds; OpenAI's client comes sooner where it is told more than 120 (3.57, MAX_RETRY_AFTER_DELAY)
_UNKNOWN = 2.0  # seconds to come again while no answer has told how long they take


def default_queue(n_slots: int) -> int:
    """Return how many requests may wait where nobody said so."""
    return max(_LEAST_QUEUE, _PER_SLOT * n_slots)


@dataclass(frozen=True, slots=True)
class Place:
    """What a request takes up: n slots, or places in the queue; rounds: of answers until its own is finished."""

    n: int
    rounds: float


class Admission:
    """The requests of one model: those it answers, and a bounded number of those that wait for it.

    n_slots: answers at once. queue: requests that may wait, None is default_queue.
    """

    def __init__(self, name: str, n_slots: int = 1, queue: int | None = None) -> None:
        self._name = name
        self._n_slots = max(1, n_slots)
        self._queue = default_queue(self._n_slots) if queue is None else queue
        self._seconds: float | None = None
        self.inside = 0

    @property
    def busy(self) -> int:
        """The slots that are taken."""
        return min(self.inside, self._n_slots)

    @property
    def waiting(self) -> int:
        """The answers that are waited for beyond that."""
        return max(0, self.inside - self._n_slots)

    def enter(self, n: int = 1) -> Place:
        """Count a request for n answers, each of which takes a slot; raises QueueFullError.

        It takes no more than all slots: its other answers are written after the first ones.
        """
        n = min(n, self._n_slots)
        if self.inside + n > self._n_slots + self._queue:
            raise QueueFullError(
                f"{self._name} is busy: {self.waiting} requests wait for it, and more may not",
                "ask again later; `llmrun serve --queue N` lets more of them wait",
                retry_after=self.retry_after(n),
            )
        self.inside += n
        return Place(n, 1 + self.waiting / self._n_slots)

    def leave(self, place: Place, seconds: float | None = None) -> None:
        """Count a request out again. seconds: that it was inside, None where it was not answered."""
        self.inside -= place.n
        if seconds is not None:
            answer, known = seconds / place.rounds, self._seconds
            self._seconds = answer if known is None else known + _NEWEST * (answer - known)

    def retry_after(self, n: int = 1) -> float:
        """Return the seconds after which n places are likely to be free, whole ones, at least 1."""
        if self._seconds is None:
            return _UNKNOWN
        ends = max(1, self.inside + n - self._n_slots - self._queue)
        return float(min(_LONGEST, max(1, math.ceil(self._seconds * ends / self._n_slots))))
