"""chat.keeper: what is kept of a chat is what was said in it, whatever was taken back or changed on the way."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.chat.answering import Answered
from llmrun.chat.conversation import Conversation
from llmrun.chat.keeper import Keeper, KeptModel
from llmrun.chat.settings import AnswerSettings
from llmrun.chat.talk import Talk
from llmrun.console import Console
from llmrun.engine.answering import AnsweringEngine
from llmrun.engine.client import Answer, Engine
from llmrun.engine.protocol import Chunk, Generate, PrefillProgress, Usage
from llmrun.errors import LenderLostError, UsageError, WorkerDiedError
from llmrun.history.store import Store, no_history, open_store
from llmrun.states import Vault, state_key
from tests.conftest import GREEDY, ONE_THREAD

USAGE = Usage(
    prompt_tokens=3,
    cached_tokens=0,
    read_tokens=3,
    completion_tokens=2,
    prompt_seconds=0.1,
    completion_seconds=0.1,
    seed=1,
)


def keeper_of(store: Store) -> Keeper:
    return Keeper(store, None, lambda: KeptModel("guide", "Q8_0", None))


def say(keeper: Keeper, conversation: Conversation, question: str) -> None:
    conversation.ask(question)
    conversation.reply(f"answer to {question}")
    keeper.answered(conversation, Answered(f"answer to {question}", "stop", USAGE))


STEPS = st.lists(st.sampled_from(["ask", "undo", "again", "drop", "system", "new", "break"]), max_size=12)


@given(STEPS)
def test_what_is_kept_is_what_was_said(steps: list[str]) -> None:
    with no_history() as store:
        keeper, conversation = keeper_of(store), Conversation()
        for number, step in enumerate(steps):
            match step:
                case "ask":
                    say(keeper, conversation, f"q{number}")
                case "break":
                    conversation.ask(f"q{number}")
                    conversation.reply(f"half of an answer to q{number}")
                    keeper.broke_off(conversation)
                case "undo":
                    conversation.undo()
                    keeper.rewritten(conversation)
                case "again" if conversation.turns:
                    conversation.undo()
                    say(keeper, conversation, f"again{number}")
                case "drop" if conversation.turns:
                    conversation.summarize_oldest(1, f"summary{number}")
                    say(keeper, conversation, f"q{number}")
                case "system":
                    conversation.system = f"s{number}"
                    keeper.rewritten(conversation)
                case "new":
                    conversation = Conversation()
                    keeper.begin_anew()
        saved = keeper.saved()
        if not conversation.turns:
            assert saved is None
            return
        assert saved is not None
        assert [(turn.role, turn.content) for turn in saved.turns] == [
            (turn.role, turn.content) for turn in conversation.turns
        ]
        resumed = keeper_of(store).take_up(saved)
        assert resumed.messages() == conversation.messages()


def test_nothing_is_kept_before_the_first_answer() -> None:
    with no_history() as store:
        keeper = keeper_of(store)
        keeper.name("early", Conversation())
        assert store.list() == ()
        say(keeper, Conversation(), "q")
        assert [summary.name for summary in store.list()] == ["early"]


def test_a_name_that_is_taken_is_refused() -> None:
    with no_history() as store:
        first, conversation = keeper_of(store), Conversation()
        say(first, conversation, "q")
        first.name("rome", conversation)
        second = keeper_of(store)
        say(second, Conversation(), "q")
        with pytest.raises(UsageError, match="rome"):
            second.name("rome", conversation)


@pytest.fixture
def open_talk(tmp_path: Path, guide_file: Path, start_engine: Callable[..., Engine]) -> Callable[[], Talk]:
    """A function that begins a chat with guide, in which everything is kept."""

    def start() -> Engine:
        return start_engine(guide_file, ONE_THREAD)

    def begin() -> Talk:
        model = KeptModel("guide", "Q8_0", state_key([guide_file], ONE_THREAD))
        keeper = Keeper(open_store(tmp_path / "history.db"), Vault(tmp_path / "states"), lambda: model)
        console = Console(out=io.StringIO(), err=io.StringIO())
        return Talk(start(), start, AnswerSettings(GREEDY, {}), console, keeper=keeper)

    return begin


def printed(talk: Talk) -> str:
    err = talk.console._err
    assert isinstance(err, io.StringIO)
    return err.getvalue()


def test_a_conversation_is_taken_up_in_another_process_without_being_read_again(open_talk: Callable[[], Talk]) -> None:
    first = open_talk()
    first.run(["/system be brief", "what is vram", "what is a kv cache", "/save notes"])
    second = open_talk()
    second.run(["/load notes", "what is ram"])
    assert second.last is not None
    assert second.last.usage.cached_tokens > 60
    assert [turn.content for turn in second.conversation.turns][:4] == [
        turn.content for turn in first.conversation.turns
    ]
    assert second.conversation.system == "be brief"
    assert second.last.usage.read_tokens < 40
    third = open_talk()
    third.run(["/load notes"])
    assert len(third.conversation.turns) == 6


def test_the_same_answer_comes_with_and_without_the_kept_state(open_talk: Callable[[], Talk], tmp_path: Path) -> None:
    open_talk().run(["what is vram", "/save notes"])
    with_state = open_talk()
    with_state.run(["/load notes", "what is a kv cache"])
    answered = with_state.last
    with_state.run(["/undo"])
    for state in (tmp_path / "states").iterdir():
        state.unlink()
    without = open_talk()
    without.run(["/load notes", "what is a kv cache"])
    assert answered
    assert without.last
    assert without.last.usage.cached_tokens == 0 < answered.usage.cached_tokens
    assert answered.text == without.last.text


def test_another_conversation_does_not_touch_the_one_that_was_left(open_talk: Callable[[], Talk]) -> None:
    talk = open_talk()
    talk.run(["what is vram", "/save one", "/new", "what is a kv cache", "/save two", "/load one", "what is ram"])
    assert talk.keeper is not None
    kept = {summary.name: summary.n_turns for summary in talk.keeper.kept(10)}
    assert kept == {"one": 4, "two": 2}


def test_mistakes_about_kept_conversations_are_told(open_talk: Callable[[], Talk], tmp_path: Path) -> None:
    talk = open_talk()
    talk.run(["/sessions", "/export md", "/load", "/save", "/load rome", "/export pdf"])
    for told in ("no conversation is kept yet", "nothing to export yet", "/load lacks a name", "/save lacks a name"):
        assert told in printed(talk)
    assert "rome" in printed(talk)
    talk.run(["what is vram", f"/export md {tmp_path / 'x.md'}", f"/export md {tmp_path / 'x.md'}", "/export pdf"])
    assert "is there already" in printed(talk)
    assert "'pdf' is none of md, json" in printed(talk)
    assert "VRAM is" in (tmp_path / "x.md").read_text("utf-8")


def lose_lenders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each engine be lost, as to a lender that is gone, after the first word of an answer."""
    whole = Engine.answer

    def answer(engine: Engine, request: Generate) -> Answer:
        coming = whole(engine, request)
        said: list[Chunk | PrefillProgress] = []

        def next_event() -> Chunk | PrefillProgress:
            if any(isinstance(one, Chunk) for one in said):
                os.kill(engine.pid, signal.SIGKILL)
                list_rest(coming)
                raise LenderLostError("rpc:a:1 is gone", "look there", ("rpc:a:1",))
            said.append(next(coming))
            return said[-1]

        return Answer(next_event, coming.cancel)

    monkeypatch.setattr(Engine, "answer", answer)


def list_rest(answer: Answer) -> None:
    """Read an answer until its engine's death is noticed."""
    with pytest.raises(WorkerDiedError):
        for _ in answer:
            pass


def test_another_try_that_is_cut_short_leaves_the_answer_that_was_kept(
    open_talk: Callable[[], Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = open_talk()
    talk.run(["what is vram"])
    assert talk.keeper is not None
    assert talk.keeper.id is not None
    good, kept = talk.conversation.turns, talk.keeper.store.find(talk.keeper.id).turns
    with monkeypatch.context() as patch:
        lose_lenders(patch)
        talk.run(["/retry"])
    assert "error: rpc:a:1 is gone" in printed(talk)
    assert "the one before it stays" in printed(talk)
    assert talk.conversation.turns == good
    assert talk.keeper.store.find(talk.keeper.id).turns == kept
    with monkeypatch.context() as patch:
        lose_lenders(patch)
        talk.run(["what is a kv cache"])
    half = talk.keeper.store.find(talk.keeper.id).turns
    assert [turn.content for turn in half] == [message.content for message in talk.conversation.turns]
    assert (half[:2], half[3].finish_reason, bool(half[3].content)) == (kept, "broken off", True)


def test_nothing_can_be_named_where_nothing_is_kept(open_talk: Callable[[], Talk], tmp_path: Path) -> None:
    talk = open_talk()
    talk.keeper = Keeper(no_history(), None, lambda: KeptModel("guide", None, None), is_kept=False)
    talk.run(["what is vram", "/save x", "/load x", "/sessions", f"/export json {tmp_path / 'x.json'}"])
    assert printed(talk).count("nothing is kept of this chat") == 3
    assert (tmp_path / "x.json").exists()


def test_a_summary_goes_with_what_it_tells_of() -> None:
    conversation = Conversation()
    for question in ("a", "b"):
        conversation.ask(question)
        conversation.reply(f"to {question}")
    conversation.summarize_oldest(1, "a was asked")
    conversation.undo()
    told = conversation.messages()
    assert "a was asked" in told[0].content
    conversation.undo()
    assert conversation.messages() == ()


class DeadlyVault(Vault):
    """One whose states are the death of the engine."""

    def restore(self, engine: AnsweringEngine, conversation: str, key: str | None) -> int:
        assert isinstance(engine, Engine)
        os.kill(engine.pid, signal.SIGKILL)
        return engine.restore_state(self.folder / "x.state", 0, 1, "")


def test_a_state_that_kills_the_engine_is_not_the_end_of_the_chat(
    open_talk: Callable[[], Talk], tmp_path: Path
) -> None:
    open_talk().run(["what is vram", "/save notes"])
    talk = open_talk()
    assert talk.keeper is not None
    talk.keeper.vault = DeadlyVault(tmp_path / "states")
    talk.take_up(talk.keeper.store.find("notes"))
    assert "starting the engine again" in printed(talk)
    talk.run(["what is a kv cache"])
    assert len(talk.conversation.turns) == 4


def test_no_state_is_kept_of_what_was_taken_back(open_talk: Callable[[], Talk], tmp_path: Path) -> None:
    talk = open_talk()
    talk.run(["what is vram", "/save notes"])
    assert len(list((tmp_path / "states").iterdir())) == 1
    talk.run(["/undo"])
    assert talk.keeper is not None
    talk.keeper.keep_state(talk.engine)
    assert list((tmp_path / "states").iterdir()) == []


def test_what_could_not_be_kept_can_be_exported(open_talk: Callable[[], Talk], tmp_path: Path) -> None:
    talk = open_talk()
    talk.run(["what is vram"])
    assert talk.keeper is not None
    assert talk.keeper.id is not None
    talk.keeper.store.delete(talk.keeper.id)
    talk.run([f"/export md {tmp_path / 'x.md'}"])
    assert "VRAM is" in (tmp_path / "x.md").read_text("utf-8")


def test_who_begins_anew_is_told_where_the_old_conversation_is(open_talk: Callable[[], Talk]) -> None:
    talk = open_talk()
    talk.run(["/clear", "what is vram"])
    assert "is forgotten" in printed(talk)
    talk.run(["/clear"])
    assert "`llmrun history` has the old one" in printed(talk)


def test_no_state_is_kept_of_what_was_removed_meanwhile(open_talk: Callable[[], Talk], tmp_path: Path) -> None:
    talk = open_talk()
    talk.run(["what is vram", "/save notes"])
    assert talk.keeper is not None
    assert talk.keeper.id is not None
    talk.keeper.store.delete(talk.keeper.id)
    talk.keeper.keep_state(talk.engine)
    assert list((tmp_path / "states").iterdir()) == []
