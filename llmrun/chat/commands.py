"""What a message that begins with a slash does."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from llmrun.chat.conversation import Conversation
from llmrun.console import Console, bullet_list
from llmrun.errors import UsageError

_HELP = {
    "/help": "this list",
    "/system [TEXT]": "show or set the system message; - removes it",
    "/clear": "forget the conversation, keep the system message",
    "/stats": "tokens and speed of the last answer, and how it was drawn",
    "/exit": "leave (so do Ctrl-D, and Ctrl-C twice)",
}
_KEYS = (
    ('"""', "begins and ends a message of many lines"),
    ("Alt-Enter", "a new line within a message"),
    ("Ctrl-C", "stops an answer"),
)


class LeaveChat(Exception):  # noqa: N818 (no error: a wish)
    """The user wants to leave."""


def help_text() -> str:
    """Return what /help shows."""
    return bullet_list([*_HELP.items(), *_KEYS])


def command_names() -> list[str]:
    """Return the commands, for completion."""
    return [name.split()[0] for name in _HELP]


def run_command(line: str, conversation: Conversation, console: Console, stats: Callable[[], list[str]]) -> None:
    """Carry out a slash command; raises LeaveChat, or UsageError for one there is not.

    stats: what /stats shows, line by line.
    """
    name, _, argument = line.strip().partition(" ")
    match name:
        case "/help" | "/?":
            console.notice(help_text())
        case "/system":
            _system(argument.strip(), conversation, console)
        case "/clear":
            conversation.clear()
            console.say("the conversation is forgotten")
        case "/stats":
            for row in stats():
                console.notice(row)
        case "/exit" | "/quit" | "/bye":
            raise LeaveChat
        case _:
            close = difflib.get_close_matches(name, command_names(), n=1)
            hint = f"did you mean {close[0]}?" if close else "/help lists them"
            raise UsageError(f"there is no command {name}", hint)


def _system(text: str, conversation: Conversation, console: Console) -> None:
    if text:
        conversation.system = None if text == "-" else text
        console.say("the system message is removed" if text == "-" else "the system message is set")
    else:
        console.notice(conversation.system or "there is no system message")
