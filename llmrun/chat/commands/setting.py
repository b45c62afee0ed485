"""Commands that change how the chat goes on: sampling, length, the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrun.chat.commands.command import Command
from llmrun.chat.settings import SETTING_NAMES, THINK, AnswerSettings, parse_setting, setting_lines
from llmrun.errors import UsageError

if TYPE_CHECKING:
    from llmrun.chat.talk import Talk


def _set(talk: Talk, text: str) -> None:
    name, _, value = text.partition(" ")
    if not name:
        for row in setting_lines(talk.settings):
            talk.console.notice(row)
        return
    if not value.strip() and name in SETTING_NAMES:
        talk.console.notice(next(row for row in setting_lines(talk.settings) if row.split()[0] == name))
        return
    talk.settings = _changed(talk, name, value.strip())
    talk.console.say(f"{name} is {value.strip()} from here on")


def _changed(talk: Talk, name: str, value: str) -> AnswerSettings:
    if name.lower() == THINK:
        info = talk.model_info()
        try:
            return talk.settings.with_thinking(value.lower(), info, talk.hands.speed())
        except UsageError as error:
            words = ", ".join(info.thinking.words)
            raise UsageError(error.message, f"/set think knows {words} here" if words else None) from error
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
