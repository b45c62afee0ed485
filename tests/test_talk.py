"""chat.talk: the chat goes on, whatever happens to one question."""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from llmrun.chat.hands import Hands
from llmrun.chat.settings import AnswerSettings
from llmrun.chat.talk import Talk
from llmrun.console import Console
from llmrun.engine.answering import AnsweringEngine
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Usage
from llmrun.errors import ContextOverflowError
from llmrun.message import Message
from llmrun.sampling import Sampling
from tests.conftest import GREEDY, ONE_THREAD


@pytest.fixture
def talk(guide_file: Path, start_engine: Callable[..., Engine]) -> Talk:
    """A chat with guide that prints into memory."""

    return new_talk(guide_file, start_engine)


def new_talk(guide_file: Path, start_engine: Callable[..., Engine]) -> Talk:
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
        assert isinstance(talk.engine, Engine)
        os.kill(talk.engine.pid, signal.SIGKILL)
        yield "what is a kv cache"
        yield "what is a kv cache"

    talk.run(messages())
    assert "starting the engine again" in printed(talk)
    assert [m.content for m in talk.conversation.messages() if m.role == "user"] == [
        "what is vram",
        "what is a kv cache",
    ]


def test_a_start_that_is_stopped_leaves_the_chat_and_the_question(talk: Talk) -> None:
    start, stops = talk.restart, [True, True, False]

    def restart() -> AnsweringEngine:
        if stops.pop(0):
            raise KeyboardInterrupt
        return start()

    def messages() -> Iterator[str]:
        assert isinstance(talk.engine, Engine)
        os.kill(talk.engine.pid, signal.SIGKILL)
        yield "what is vram"
        assert talk.take_draft() == "what is vram"
        yield "what is a kv cache"
        assert talk.take_draft() == "what is a kv cache"
        yield "what is vram"

    talk.restart = restart
    talk.run(messages())
    assert printed(talk).count("(stopped: the next question, or /retry, starts it again)") == 2
    assert talk.conversation.messages()[0].content == "what is vram"
    assert not stops
    talk.forgiving, talk._gone, stops[:] = False, talk.engine, [True]
    with pytest.raises(KeyboardInterrupt):  # nobody is there who could ask again
        talk.run(["what is vram"])


def test_each_answer_that_is_over_is_told_of_and_no_other(talk: Talk) -> None:
    told: list[Usage] = []
    talk.on_answer = told.append
    talk.run(["what is vram", "x1" * 3000, "/help", "what is a kv cache"])
    assert len(told) == 2
    assert talk.last
    assert told[-1] == talk.last.usage


def test_an_answer_can_be_asked_for_again_with_another_draw(talk: Talk) -> None:
    talk.settings = AnswerSettings(Sampling(temperature=3, top_k=0, top_p=1, min_p=0, seed=1), {})
    talk.run(["what is vram", "/regen"])
    assert [message.role for message in talk.conversation.turns] == ["user", "assistant"]
    assert talk.last
    assert talk.last.usage.seed != 1
    assert talk.settings.sampling.seed == 1


def test_what_was_read_is_not_read_again_for_another_draw_or_another_branch(talk: Talk) -> None:
    told: list[Usage] = []
    talk.on_answer = told.append
    talk.run(["what is vram", "what is a kv cache", "/regen", "/undo", "what is a kv cell"])
    first, second, again, branch = told
    assert (again.prompt_tokens, again.read_tokens) == (second.prompt_tokens, 1)
    assert branch.cached_tokens > first.prompt_tokens + first.completion_tokens
    assert branch.read_tokens < second.prompt_tokens - first.prompt_tokens


def test_nothing_can_be_taken_back_or_asked_again_before_the_first_question(talk: Talk) -> None:
    talk.run(["/regen", "/undo", "/copy", "/context"])
    assert printed(talk).count("error: nothing was asked yet") == 2
    assert "no answer to copy" in printed(talk)
    assert "nothing fills the context" in printed(talk)


def test_a_question_can_be_taken_back(talk: Talk) -> None:
    talk.run(["what is vram", "what is a kv cache", "/undo"])
    assert [m.content for m in talk.conversation.turns if m.role == "user"] == ["what is vram"]
    assert "taken back: what is a kv cache" in printed(talk)


def test_without_an_editor_the_question_goes_back_to_the_line(talk: Talk) -> None:
    talk.run(["what is vram", "/edit"])
    assert talk.take_draft() == "what is vram"
    assert talk.take_draft() == ""
    assert talk.conversation.turns == ()


def test_a_failed_second_try_leaves_the_first_answer(talk: Talk) -> None:
    talk.run(["what is vram"])
    before = talk.conversation.turns
    with pytest.raises(ContextOverflowError):
        talk.ask_again("x1" * 3000)
    assert talk.conversation.turns == before


def test_an_edited_question_takes_the_place_of_the_last(talk: Talk) -> None:
    seen: list[str] = []

    def change(text: str) -> str:
        seen.append(text)
        return "what is a kv cache"

    talk.hands = Hands(edit=change)
    talk.run(["what is vram", "/edit"])
    assert seen == ["what is vram"]
    assert [m.content for m in talk.conversation.turns if m.role == "user"] == ["what is a kv cache"]
    assert "keys and values" in (talk.conversation.last_answer or "")


def test_a_setting_changes_the_next_answer_only_for_what_it_says(talk: Talk) -> None:
    talk.run(["/set max-tokens 3", "what is vram"])
    assert talk.last
    assert talk.last.finish_reason == "length"
    assert talk.settings.sampling == GREEDY


def test_the_context_is_told_part_by_part(talk: Talk) -> None:
    talk.run(["/system be brief", "what is vram", "/context"])
    assert talk.last
    whole = talk.last.usage.prompt_tokens + talk.last.usage.completion_tokens
    told = int(re.findall(r"context ([\d,]+) of", printed(talk))[0].replace(",", ""))
    assert abs(told - whole) <= 16  # the marks of the next turn
    for part in ("system message", "questions", "answers", "template", "free"):
        assert part in printed(talk)


FILLER = f"what is vram {'x1' * 400}"


def chosen(talk: Talk, *keys: str) -> list[str]:
    """Let a person press these keys when asked, and return what they were asked."""
    questions: list[str] = []
    pressed = iter(keys)

    def choose(question: str, _: Mapping[str, str]) -> str:
        questions.append(question)
        return next(pressed)

    talk.hands = Hands(choose=choose)
    return questions


def test_a_full_context_is_shortened_as_the_user_chooses_and_asked_once(
    guide_file: Path, start_engine: Callable[..., Engine]
) -> None:
    talk = new_talk(guide_file, start_engine)
    asked = chosen(talk, "d")
    talk.run(["/set max-tokens 30", FILLER, FILLER, FILLER])
    assert len(asked) == 1
    assert len(talk.conversation.turns) == 6  # what was said is kept, though the model is told less
    assert len(talk.conversation.messages()) < 6


def test_a_full_context_can_be_summarised(guide_file: Path, start_engine: Callable[..., Engine]) -> None:
    talk = new_talk(guide_file, start_engine)
    asked = chosen(talk, "s")
    talk.run(["/set max-tokens 30", "what is vram", FILLER, FILLER, FILLER])
    assert len(asked) == 1
    assert talk.conversation.summary
    assert "are now a summary" in printed(talk)
    assert talk.conversation.summary in talk.conversation.messages()[0].content
    assert len(talk.conversation.turns) == 8


def test_a_question_that_is_too_long_by_itself_asks_nothing(
    guide_file: Path, start_engine: Callable[..., Engine]
) -> None:
    talk = new_talk(guide_file, start_engine)
    asked = chosen(talk)
    talk.run(["what is vram", "x1" * 3000])
    assert asked == []
    assert len(talk.conversation.messages()) == 2
    assert "error: the conversation has" in printed(talk)


def test_a_full_context_can_be_left_as_it_is(guide_file: Path, start_engine: Callable[..., Engine]) -> None:
    talk = new_talk(guide_file, start_engine)
    chosen(talk, "n")
    talk.run(["/set max-tokens 30", FILLER, FILLER, FILLER])
    assert len(talk.conversation.turns) == 4
    assert "/new begins anew" in printed(talk)


def test_a_context_that_is_nearly_full_is_told_once(talk: Talk) -> None:
    talk.run([f"what is vram {'x1' * 780}", "what is a kv cache", "what is ram"])
    assert printed(talk).count("of the context is used") == 1


def test_a_path_that_can_be_none_is_told_and_the_chat_goes_on(talk: Talk, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    talk.run(["what is vram", "/file ~nosuchuser/x", f"/file {'x' * 300}", "/file a\0b", f"/file {closed}/x"])
    talk.run(["/export md ~nosuchuser/x", "/image ~nosuchuser/x"])
    assert printed(talk).count("error: ") == 6
    assert printed(talk).count("there is no home directory for ~nosuchuser/x") >= 1


def test_the_model_is_told_where_none_is_named(talk: Talk) -> None:
    talk.run(["/model"])
    assert "the model is llmrun guide" in printed(talk).lower() or "the model is" in printed(talk)
    assert "error" not in printed(talk)


def test_nothing_is_said_to_be_in_a_clipboard_that_is_not_there(talk: Talk) -> None:
    talk.run(["what is vram", "/copy"])
    assert "error: there is no clipboard here" in printed(talk)
