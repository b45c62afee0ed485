"""A command of the chat, as a value: its name, what may follow it, what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llmrun.chat.talk import Talk

Argument = Literal["text", "path", "setting", "format", "session", "model"]


class LeaveChat(Exception):  # noqa: N818 (no error: a wish)
    """The user wants to leave."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a line that begins with `name` does.

    arguments: what may follow, as /help shows it; argument: what that is, for completion. act: gets the chat and what
    followed, and raises LLMRunError or LeaveChat. aliases: names that other programs have for it.
    """

    name: str
    arguments: str
    help: str
    act: Callable[[Talk, str], None]
    argument: Argument | None = None
    aliases: tuple[str, ...] = ()
