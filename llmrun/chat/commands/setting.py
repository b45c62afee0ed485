"""Commands that change how the chat goes on: sampling, length, the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrun.chat.commands.command import Command
from llmrun.chat.settings import SETTINGS, THINK, AnswerSettings, parse_setting, setting_lines
from llmrun.errors import UsageError

if TYPE_CHECKING:
    from llmrun.chat.talk import Talk


def _set(talk: Talk, text: str) -> None:
    name, _, value = text.partition(" ")
    if not name:
        for row in setting_lines(talk.settings):
            talk.console.notice(row)
        return
    if not value.strip():
        raise UsageError(
            f"/set {name} lacks a value", f"for example {SETTINGS[name].example}" if name in SETTINGS else None
        )
    talk.settings = _changed(talk, name, value.strip())
    talk.console.say(f"{name} is {value.strip()} from here on")


def _changed(talk: Talk, name: str, value: str) -> AnswerSettings:
    if name.lower() == THINK:
        return talk.settings.with_thinking(value.lower(), talk.model_info(), talk.hands.speed())
    return parse_setting(talk.settings, name, value)


def _model(talk: Talk, name: str) -> None:
    if not name:
        talk.console.notice(f"the model is {talk.model_info().name}; /model NAME goes on with another")
        return
    talk.go_on_with(name)


COMMANDS = (
    Command("/set", "[NAME VALUE]", "show or change how answers are drawn: temp, seed, ...", _set, "setting"),
    Command("/model", "NAME", "go on with another model, keeping the conversation", _model, "model"),
)
