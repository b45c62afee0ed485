"""Commands about conversations that are kept: name one, take one up again, write one to a file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmrun.chat.beside import unquoted_path
from llmrun.chat.commands.command import Command
from llmrun.errors import NotFoundError, UsageError
from llmrun.history.exported_file import parse_form, write_export

if TYPE_CHECKING:
    from llmrun.chat.keeper import Keeper
    from llmrun.chat.talk import Talk

_LISTED = 10


def _save(talk: Talk, name: str) -> None:
    keeper = _kept(talk)
    if not name:
        raise UsageError("/save lacks a name", "for example /save trip-to-rome")
    keeper.name(name, talk.conversation)
    keeper.keep_state(talk.engine)
    told = "" if talk.conversation.turns else ", and kept with its first answer"
    talk.console.say(f"it is called {name}{told}: /load {name} goes on with it")


def _load(talk: Talk, name: str) -> None:
    keeper = _kept(talk)
    if not name:
        raise UsageError("/load lacks a name", "/sessions lists them")
    try:
        saved = keeper.store.find(name)
    except NotFoundError as error:
        close = error.hint if error.hint and "did you mean" in error.hint else "/sessions lists them"
        raise NotFoundError(error.message, close) from error
    talk.take_up(saved)


def _sessions(talk: Talk, _: str) -> None:
    kept = _kept(talk).kept(_LISTED)
    if not kept:
        talk.console.notice("no conversation is kept yet")
        return
    talk.console.notice(talk.hands.listing(kept))
    talk.console.say("/load NAME goes on with one; `llmrun history` has them all")


def _export(talk: Talk, text: str) -> None:
    talk.check_typed("/export", "llmrun history export writes what is kept")
    saved = _keeper(talk).saved()
    if saved is None:
        raise UsageError("there is nothing to export yet")
    form_text, _, path = text.partition(" ")
    form = parse_form(form_text or "md", "/export md, or /export json FILE")
    name = re.sub(r"[^\w.-]+", "-", saved.name or saved.id).strip(".-") or saved.id
    file = unquoted_path(path.strip() or f"{name}.{form}", "/export md FILE")
    write_export(saved, form, file)
    talk.console.say(f"the conversation is in {file}")


def _keeper(talk: Talk) -> Keeper:
    if talk.keeper is None:
        raise UsageError("nothing is kept of this chat")
    return talk.keeper


def _kept(talk: Talk) -> Keeper:
    keeper = _keeper(talk)
    if not keeper.is_kept:
        raise UsageError("nothing is kept of this chat", "/export md writes it to a file")
    return keeper


COMMANDS = (
    Command("/save", "NAME", "give the conversation a name to find it by", _save, "text"),
    Command("/load", "NAME", "go on with a conversation that is kept", _load, "session"),
    Command("/sessions", "", "the conversations that are kept", _sessions),
    Command("/export", "md|json [FILE]", "write the conversation to a file", _export, "format"),
)
