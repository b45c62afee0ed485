"""Commands that put something beside the next question."""

from __future__ import annotations

from llmrun.chat.commands.command import Command

COMMANDS: tuple[Command, ...] = ()
