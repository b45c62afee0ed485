"""Commands about conversations that are kept: name one, take one up again, write one to a file."""

from __future__ import annotations

from llmrun.chat.commands.command import Command

COMMANDS: tuple[Command, ...] = ()
