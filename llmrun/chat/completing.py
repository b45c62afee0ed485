"""What Tab offers in the chat: commands, and what may follow each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llmrun.chat.commands.command import Argument
from llmrun.chat.commands.table import COMMANDS, command_named
from llmrun.chat.settings import SETTING_NAMES


def _none() -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Names:
    """Where names that only the world knows come from: of stored conversations, of models."""

    sessions: Callable[[], Iterable[str]] = _none
    models: Callable[[], Iterable[str]] = _none


def argument_of(text: str) -> Argument | None:
    """Return what follows the command that a line begins with, None for a message or a command that takes nothing."""
    name, space, _ = text.partition(" ")
    command = command_named(name) if space and "\n" not in text else None
    return command.argument if command else None


def completions(text: str, names: Names = Names()) -> list[str]:
    """Return what the command of a line, or the word after it, could become, sorted; nothing for a message.

    The names of files are not among them: whoever asks looks into folders.
    """
    if not text.startswith("/") or "\n" in text:
        return []
    name, space, rest = text.partition(" ")
    if not space:
        return sorted(command.name for command in COMMANDS if command.name.startswith(name))
    return sorted(word for word in _arguments(argument_of(text), names) if word.startswith(rest))


def _arguments(argument: Argument | None, names: Names) -> Iterable[str]:
    match argument:
        case "setting":
            return (f"{name} " for name in SETTING_NAMES)
        case "format":
            return ("md", "json")
        case "session":
            return names.sessions()
        case "model":
            return names.models()
    return ()
