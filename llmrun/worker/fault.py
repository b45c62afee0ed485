"""A fault of ours as an error: where it is, and its own words only where nobody else hears them."""

from __future__ import annotations

import sys
import traceback

from llmrun.errors import EngineError


def told_fault(error: Exception) -> EngineError:
    """Return what the only user of this process is told; the log gets the traceback."""
    sys.excepthook(type(error), error, error.__traceback__)
    return EngineError(f"the engine's process met a bug: {type(error).__name__}: {error}")


def silent_fault(error: Exception) -> EngineError:
    """Return what one of many users, or all of them, are told: the error's own words may be those of a prompt."""
    traceback.print_tb(error.__traceback__)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return EngineError(f"the engine's process met a bug: {type(error).__name__} in {frame.name}, line {frame.lineno}")
