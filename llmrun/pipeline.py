"""The whole way from what was typed to a model that answers; the only module that knows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.errors import NotFoundError
from llmrun.gguf.source import check_file
from llmrun.hardware.threads import count_threads
from llmrun.reference import GuideRef, ModelRef
from llmrun.settings import Constraints, settings_for


def locate(ref: ModelRef) -> Path:
    """Return the file of a reference; raises NotFoundError or GGUFError if it cannot be a model."""
    path = embedded_file(ref.quant) if isinstance(ref, GuideRef) else _expand(ref.path)
    check_file(path)
    return path


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise NotFoundError(f"there is no home directory for {path}", "give the whole path") from error


def start(
    ref: ModelRef,
    constraints: Constraints = Constraints(),
    *,
    on_log: Callable[[str], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Engine:
    """Load a model and return the engine that answers with it; the caller closes it.

    Raises NotFoundError, GGUFError, InsufficientMemoryError or EngineError, with no process left behind.
    """
    path = locate(ref)
    engine = Engine(on_log)
    try:
        engine.load(path, settings_for(constraints, count_threads()), on_progress)
    except BaseException:
        engine.close()
        raise
    return engine
