"""chat.talk: the chat goes on, whatever happens to one question."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmrun.chat.settings import AnswerSettings
from llmrun.chat.talk import Talk
from llmrun.console import Console
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Message, Usage
from tests.conftest import GREEDY, ONE_THREAD


@pytest.fixture
def talk(guide_file: Path, start_engine: Callable[..., Engine]) -> Talk:
    """A chat with guide that prints into memory."""

    def start() -> Engine:
        return start_engine(guide_file, ONE_THREAD)

    console = Console(out=io.StringIO(), err=io.StringIO())
    return Talk(start(), start, AnswerSettings(GREEDY, {}), console)


def printed(talk: Talk) -> str:
    err = talk.console._err
    assert isinstance(err, io.StringIO)
    return err.getvalue()


def test_a_question_that_can_never_fit_costs_no_turn(talk: Talk) -> None:
    talk.run(["what is vram"])
    before = talk.conversation.messages()
    talk.run(["x1" * 3000])
    assert "error: the conversation has" in printed(talk)
    assert talk.conversation.messages() == before
    assert before[0] == Message("user", "what is vram")


def test_a_full_context_leaves_room_for_a_whole_answer(talk: Talk) -> None:
    talk.run([f"what is vram {'x1' * 400}", "what is a kv cache"])
    assert "going on without the oldest" in printed(talk)
    assert talk.last
    assert talk.last.finish_reason == "stop"
    assert len(talk.conversation.messages()) == 2


def test_the_chat_goes_on_after_the_engine_has_died(talk: Talk) -> None:
    def messages() -> Iterator[str]:
        yield "what is vram"
        os.kill(talk.engine.pid, signal.SIGKILL)
        yield "what is a kv cache"
        yield "what is a kv cache"

    talk.run(messages())
    assert "starting the engine again" in printed(talk)
    assert [m.content for m in talk.conversation.messages() if m.role == "user"] == [
        "what is vram",
        "what is a kv cache",
    ]


def test_each_answer_that_is_over_is_told_of_and_no_other(talk: Talk) -> None:
    told: list[Usage] = []
    talk.on_answer = told.append
    talk.run(["what is vram", "x1" * 3000, "/help", "what is a kv cache"])
    assert len(told) == 2
    assert talk.last
    assert told[-1] == talk.last.usage
