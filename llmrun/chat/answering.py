"""One answer brought from the engine to the console: streamed, interruptible, with the wait explained."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from llmrun.chat.view.view import View, make_view
from llmrun.console import Console
from llmrun.engine.answering import AnsweringEngine
from llmrun.engine.protocol import Chunk, FinishReason, Generate, PrefillProgress, Usage
from llmrun.errors import EngineError, LLMRunError, WorkerDiedError
from llmrun.units import format_seconds

# A wait shorter than this needs no explanation, seconds
_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that is over; thoughts: what the model thought before it."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    thoughts: str = ""


def stream_answer(engine: AnsweringEngine, request: Generate, console: Console, *, show: bool = True) -> Answered:
    """Ask the engine, show the answer as it comes (if `show`), and return it; Ctrl-C ends it early.

    Raises ContextOverflowError and EngineError; a WorkerDiedError has what was said until then.
    """
    answer = engine.answer(request)
    with _interrupt_calls(answer.cancel), _shown(console if show else None) as view:
        answered = _collect(answer, console, view)
    console.clear_status()
    return answered


def show_answer(text: str, console: Console) -> None:
    """Print an answer of another time as it was shown then; nothing when quiet."""
    if console.quiet:
        return
    with _shown(console) as view:
        if view is not None:
            view.answer(text)
    console.end_answer()


def _collect(events: Iterable[PrefillProgress | Chunk], console: Console, view: View | None) -> Answered:
    text: list[str] = []
    thoughts: list[str] = []
    ending: tuple[FinishReason, Usage] | None = None
    try:
        for event in events:
            if isinstance(event, PrefillProgress):
                _show_progress(event, console)
                continue
            is_thought = event.thought
            (thoughts if is_thought else text).append(event.text)
            if view is not None:
                (view.thought if is_thought else view.answer)(event.text)
            if event.finish_reason is not None and event.usage is not None:
                ending = event.finish_reason, event.usage  # no return: the engine has one more word to say
    except WorkerDiedError as error:
        error.said, error.thoughts = "".join(text), "".join(thoughts)
        raise
    if ending is None:
        raise EngineError("the engine ended an answer without saying why")
    return Answered("".join(text), *ending, "".join(thoughts))


@contextmanager
def _shown(console: Console | None) -> Iterator[View | None]:
    """Give a view, and see to it that the terminal is clean afterwards; None for no console."""
    if console is None:
        yield None
        return
    view = make_view(console)
    try:
        yield view
    except KeyboardInterrupt:
        view.leave()
        raise
    except LLMRunError:
        view.end()
        raise
    view.end()


def _show_progress(progress: PrefillProgress, console: Console) -> None:
    read = progress.done - progress.cached
    whole = progress.seconds * (progress.total - progress.cached) / max(1, read)
    if whole >= _PATIENCE:
        left = format_seconds(max(0.0, whole - progress.seconds))
        console.status(f"reading {progress.done:,} of {progress.total:,} tokens, {left} left")


@contextmanager
def _interrupt_calls(action: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C call `action` meanwhile; a second one raises KeyboardInterrupt as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN:  # as in a background job of a shell script
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        action()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
