"""What a chat needs of the world around it, to be handed in by who knows that world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmrun.errors import UsageError

if TYPE_CHECKING:
    from llmrun.engine.answering import AnsweringEngine
    from llmrun.history.record import Summary


def _no_lines() -> list[str]:
    return []


def _first_words(found: Sequence[Summary]) -> str:
    return "\n".join(f"{summary.name or summary.id}  {summary.first}" for summary in found)


def _unknown() -> None:
    return None


def _no_clipboard(_: str) -> None:
    raise UsageError("there is no clipboard here", "/export md writes the conversation to a file")


@dataclass(frozen=True, slots=True)
class Hands:
    """choose: asks a question that one key answers; None where nobody is there to press it.

    edit: lets a text be changed in the user's editor, and returns None where it was left as it was; None where there is
    no editor. copy: puts a text into the clipboard. plan_lines: how the model runs, as lines to read. switch: loads
    another model by its name in the place of the one that an engine holds, and returns the engine that holds it; raises
    UsageError or NotFoundError for a name that means none, with the old engine as it was. see: loads the model of an
    engine again so that it can see images, if there is what it needs, and returns the engine that holds it. listing:
    kept conversations as lines to read. speed: tokens a second that the model is predicted to write. without: plans
    the model without lenders that cannot be reached, so that the next start does without them where that can be, and
    returns what is said of it, given those that the engine lost; nothing where there is nothing to say.
    """

    choose: Callable[[str, Mapping[str, str]], str] | None = None
    edit: Callable[[str], str | None] | None = None
    copy: Callable[[str], None] = _no_clipboard
    plan_lines: Callable[[], list[str]] = _no_lines
    switch: Callable[[str, AnsweringEngine], AnsweringEngine] | None = None
    see: Callable[[AnsweringEngine], AnsweringEngine] | None = None
    speed: Callable[[], float | None] = _unknown
    listing: Callable[[Sequence[Summary]], str] = _first_words
    without: Callable[[Sequence[str]], str] | None = None
