"""All commands of the chat, and what a line that begins with a slash does."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from llmrun.chat.commands import attaching, conversing, keeping, setting, telling
from llmrun.chat.commands.command import Command
from llmrun.console import bullet_list
from llmrun.errors import UsageError

if TYPE_CHECKING:
    from llmrun.chat.talk import Talk

_KEYS = (
    ('"""', "begins and ends a message of many lines"),
    ("Alt-Enter", "a new line within a message"),
    ("Ctrl-C", "stops an answer"),
    ("Tab", "completes commands, and names of files"),
)


def _help(talk: Talk, _: str) -> None:
    talk.console.notice(help_text())


COMMANDS: tuple[Command, ...] = (
    Command("/help", "", "this list", _help, aliases=("/?",)),
    *conversing.COMMANDS,
    *setting.COMMANDS,
    *attaching.COMMANDS,
    *keeping.COMMANDS,
    *telling.COMMANDS,
    conversing.EXIT,
)
_BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}


def help_text() -> str:
    """Return what /help shows."""
    rows = [(f"{command.name} {command.arguments}".rstrip(), _told(command)) for command in COMMANDS]
    return bullet_list([*rows, *_KEYS])


def _told(command: Command) -> str:
    return f"{command.help}; also {', '.join(command.aliases)}" if command.aliases else command.help


def command_named(name: str) -> Command | None:
    """Return the command of this name, or with this alias."""
    return _BY_NAME.get(name)


def run_command(talk: Talk, line: str) -> None:
    """Carry out a slash command; raises LeaveChat, UsageError for one there is not, and what the command raises."""
    name, _, argument = line.strip().partition(" ")
    command = command_named(name)
    if command is None:
        close = difflib.get_close_matches(name, [known.name for known in COMMANDS], n=1)
        hint = f"did you mean {close[0]}?" if close else "/help lists them; a space before the / makes it a message"
        raise UsageError(f"there is no command {name}", hint)
    command.act(talk, argument.strip())
