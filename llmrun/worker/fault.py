"""A fault of ours as an error: where it is, and its own words only where nobody else hears them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmrun.errors import EngineError, LLMRunError


@contextmanager
def contained(fail: Callable[[LLMRunError], None]) -> Iterator[None]:
    """Let what goes wrong in what is done for one request be the end of that one alone, a fault of ours too."""
    try:
        yield
    except LLMRunError as error:
        fail(error)
    except Exception as fault:  # as at the top of the process, but for one request
        fail(silent_fault(fault))


def told_fault(error: Exception) -> EngineError:
    """Return what the only user of this process is told; the log gets the traceback."""
    sys.excepthook(type(error), error, error.__traceback__)
    return EngineError(f"the engine's process met a bug: {type(error).__name__}: {error}")


def silent_fault(error: Exception) -> EngineError:
    """Return what one of many users, or all of them, are told: the error's own words may be those of a prompt."""
    traceback.print_tb(error.__traceback__)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return EngineError(f"the engine's process met a bug: {type(error).__name__} in {frame.name}, line {frame.lineno}")
