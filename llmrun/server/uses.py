"""Who uses the models at the same time: only the speed of an answer that was alone says something of the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmrun.engine.protocol import Usage


class Use:
    """One request that is being answered, until it has ended.

    alone: whether no other was at any moment of it, and it is for one answer.
    """

    def __init__(self, *, alone: bool) -> None:
        self.alone = alone
        self.ended = False


class Uses:
    """All requests that are being answered by the models of one machine."""

    def __init__(self) -> None:
        self._now: set[Use] = set()

    def begin(self, n: int) -> Use:
        """Count one for n answers in."""
        use = Use(alone=n == 1 and not self._now)
        for other in self._now:
            other.alone = False
        self._now.add(use)
        return use

    def end(self, use: Use) -> None:
        """Count it out."""
        use.ended = True
        self._now.discard(use)


def recorder(use: Use, record: Callable[[Usage], None]) -> Callable[[Usage], None]:
    """Return what has the speed of an answer remembered, in another thread, if it was alone. For an event loop."""

    def take(usage: Usage) -> None:
        if use.alone:
            asyncio.get_running_loop().run_in_executor(None, record, usage)

    return take
