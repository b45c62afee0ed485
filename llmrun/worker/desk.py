"""What is done next in the worker: steps of the answers that are being written, and commands between them."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from llmrun.engine.protocol import (
    Event,
    Failed,
    Generate,
    Load,
    Phase,
    Work,
)
from llmrun.engine.sharing import Said, Shared
from llmrun.engine.states import RestoreState, SaveState
from llmrun.engine.wire import failure_of
from llmrun.errors import LLMRunError
from llmrun.worker.fault import silent_fault, told_fault

if TYPE_CHECKING:
    from llmrun.worker.job import Say
    from llmrun.worker.runner import Runner


_TAKING_SECONDS = 0.05  # between two steps, for texts that are counted or tokenized; the rest waits for the next


class Emit(Protocol):
    """Sends an event to the parent, at once, or with the next one that is."""

    def __call__(self, event: Event | Said, *, flush: bool = True) -> None:
        """Send it."""


class Desk:
    """Takes commands from the queue, in their order; those that need the whole context wait while others write."""

    def __init__(self, runner: Runner, commands: queue.SimpleQueue[Work | Shared], emit: Emit) -> None:
        self._runner, self._commands, self._emit = runner, commands, emit
        self._later: deque[Work] = deque()

    def work(self) -> None:
        """Do what is due: a step of the answers, and what came meanwhile; without any, wait for a command."""
        batcher = self._runner.batcher
        if batcher is None or not batcher.has_work:
            self._take_up(self._later.popleft() if self._later else self._wait())
            return
        until = time.perf_counter() + _TAKING_SECONDS
        with contextlib.suppress(queue.Empty):
            while time.perf_counter() < until:
                self._take_up(self._commands.get_nowait())
        try:
            batcher.step()
        except Exception as error:  # a fault of ours: nobody must wait for an answer that does not come
            batcher.fail_all(silent_fault(error))

    def _wait(self) -> Work | Shared:
        while self._runner.tidy():
            with contextlib.suppress(queue.Empty):
                return self._commands.get_nowait()
        return self._commands.get()

    def _take_up(self, command: Work | Shared) -> None:
        if isinstance(command, Shared):
            self._share(command)
        elif self._is_busy and isinstance(command, Load | Generate | SaveState | RestoreState):
            self._later.append(command)
        else:
            self._emit(self._carry_out(command))

    @property
    def _is_busy(self) -> bool:
        batcher = self._runner.batcher
        return batcher is not None and batcher.has_work

    def _share(self, command: Shared) -> None:
        say = self._say(command.id)
        try:
            self._runner.share(command, say)
        except LLMRunError as error:
            say(failure_of(error))
        except Exception as error:  # as above
            say(failure_of(silent_fault(error)))

    def _say(self, number: int) -> Say:
        return partial(_say, self._emit, number)

    def _carry_out(self, command: Work) -> Event:
        """Run one command and return what ends it, either way."""
        try:
            self._runner.carry_out(command)
        except LLMRunError as error:
            return failure_of(error)
        except Exception as error:  # the top of this process: the parent must hear of it
            return failure_of(told_fault(error))
        return Phase("idle")


def _say(emit: Emit, number: int, event: Failed) -> None:
    emit(Said(number, event), flush=False)
