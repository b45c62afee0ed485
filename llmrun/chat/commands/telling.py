"""Commands that only tell: what fills the context, how fast it was, how the model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrun.chat.commands.command import Command
from llmrun.chat.context_view import context_lines
from llmrun.errors import UsageError

if TYPE_CHECKING:
    from llmrun.chat.talk import Talk


def _stats(talk: Talk, _: str) -> None:
    for row in talk.stats():
        talk.console.notice(row)


def _context(talk: Talk, _: str) -> None:
    messages = talk.conversation.messages()
    info = talk.model_info()
    if not messages:
        raise UsageError("nothing fills the context yet", f"it holds {info.n_ctx:,} tokens")
    for row in context_lines(messages, talk.engine.count(messages), info.n_ctx, talk.console.width):
        talk.console.notice(row)


def _plan(talk: Talk, _: str) -> None:
    for row in talk.hands.plan_lines():
        talk.console.notice(row)


def _copy(talk: Talk, _: str) -> None:
    answer = talk.conversation.last_answer
    if answer is None:
        raise UsageError("there is no answer to copy yet")
    talk.hands.copy(answer)
    talk.console.say(f"the last answer is in the clipboard, {len(answer):,} characters")


COMMANDS = (
    Command("/context", "", "what fills the context", _context),
    Command("/stats", "", "tokens and speed of the last answer, and its sampling", _stats),
    Command("/plan", "", "how the model runs here, and why so", _plan),
    Command("/copy", "", "put the last answer into the clipboard", _copy),
)
