"""What a message that begins with a slash does."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmrun.console import bullet_list
from llmrun.errors import UsageError

if TYPE_CHECKING:
    from llmrun.chat.talk import Talk

_HELP = {
    "/help": "this list",
    "/system [TEXT]": "show or set the system message; - removes it",
    "/clear": "forget the conversation, keep the system message",
    "/stats": "tokens and speed of the last answer, and how it was drawn",
    "/exit": "leave (so do Ctrl-D, and Ctrl-C at an empty prompt)",
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


def run_command(line: str, talk: Talk) -> None:
    """Carry out a slash command; raises LeaveChat, or UsageError for one there is not."""
    name, _, argument = line.strip().partition(" ")
    actions: dict[str, Callable[[str], None]] = {
        "/help": lambda _: talk.console.notice(help_text()),
        "/?": lambda _: talk.console.notice(help_text()),
        "/system": lambda text: _system(text.strip(), talk),
        "/clear": lambda _: _clear(talk),
        "/stats": lambda _: _stats(talk),
        "/exit": _leave,
        "/quit": _leave,
        "/bye": _leave,
    }
    if name not in actions:
        close = difflib.get_close_matches(name, command_names(), n=1)
        raise UsageError(f"there is no command {name}", f"did you mean {close[0]}?" if close else "/help lists them")
    actions[name](argument)


def _leave(_: str) -> None:
    raise LeaveChat


def _system(text: str, talk: Talk) -> None:
    if text:
        talk.conversation.system = None if text == "-" else text
        talk.console.say("the system message is removed" if text == "-" else "the system message is set")
    else:
        talk.console.notice(talk.conversation.system or "there is no system message")


def _clear(talk: Talk) -> None:
    talk.conversation.clear()
    talk.console.say("the conversation is forgotten")


def _stats(talk: Talk) -> None:
    for line in talk.stats():
        talk.console.notice(line)
