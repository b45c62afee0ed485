"""Commands that change what was said: forget it, take it back, say it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrun.chat.commands.command import Command, LeaveChat
from llmrun.errors import UsageError

if TYPE_CHECKING:
    from llmrun.chat.talk import Talk

_SHOWN = 50  # characters of a question that is told of


def _clear(talk: Talk, _: str) -> None:
    keeper = talk.keeper
    is_kept = keeper is not None and keeper.is_kept and bool(talk.conversation.turns)
    talk.conversation.clear()
    talk.begin_anew()
    if is_kept:
        talk.console.say("a new conversation; the system message stays, `llmrun history` has the old one")
    else:
        talk.console.say("the conversation is forgotten; the system message stays")


def _new(talk: Talk, _: str) -> None:
    talk.conversation.clear()
    talk.conversation.system = talk.first_system
    talk.begin_anew()
    talk.console.say("a new conversation")


def _system(talk: Talk, text: str) -> None:
    conversation = talk.conversation
    if text:
        conversation.system = None if text == "-" else text
        talk.was_rewritten()
        talk.console.say("the system message is removed" if text == "-" else "the system message is set")
    else:
        talk.console.notice(conversation.system or "there is no system message")


def _regen(talk: Talk, _: str) -> None:
    _check_asked(talk)
    talk.ask_again()


def _undo(talk: Talk, _: str) -> None:
    _check_asked(talk)
    question = talk.conversation.undo()
    assert question is not None
    talk.last = None
    talk.was_rewritten()
    talk.console.say(f"taken back: {_shortened(question.content)}")


def _edit(talk: Talk, _: str) -> None:
    last = talk.conversation.copy().undo()
    asked = last.content if last else ""
    if talk.hands.edit is None:  # no editor: the question goes back to the line it was typed in
        if last is not None:
            _undo(talk, "")
            talk.draft = last.content
        return
    text = (talk.hands.edit(asked) or "").strip()
    if not text or text == asked.strip():
        talk.console.say("nothing is changed")
        return
    if last is None:
        talk.ask(text)
    else:
        talk.ask_again(text)


def _exit(_: Talk, __: str) -> None:
    raise LeaveChat


def _check_asked(talk: Talk) -> None:
    if not talk.conversation.turns:
        raise UsageError("nothing was asked yet")


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


COMMANDS = (
    Command("/regen", "", "answer the last question again", _regen, aliases=("/retry",)),
    Command("/undo", "", "take the last question and its answer back", _undo),
    Command("/edit", "", "change the last question in $EDITOR, and ask it", _edit),
    Command("/system", "[TEXT]", "show or set the system message; - removes it", _system, "text"),
    Command("/clear", "", "forget the conversation, keep the system message", _clear),
    Command("/new", "", "begin a new conversation, as the chat began", _new),
)
EXIT = Command("/exit", "", "leave (or Ctrl-D, or Ctrl-C twice)", _exit, aliases=("/quit", "/bye", "/q"))
