"""chat.lines, chat.conversation, chat.commands: what was typed, as messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.chat.conversation import Conversation
from llmrun.chat.lines import is_complete, join_quoted, unquote
from llmrun.message import Message


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (["a\n", "b\n"], ["a", "b"]),
        (["a\n", "\n", "  \n", "b"], ["a", "b"]),
        (['"""\n', "a\n", "\n", "b\n", '"""\n', "c\n"], ["a\n\nb", "c"]),
        (['"""a\n', 'b"""\n'], ["a\nb"]),
        (['"""a"""\n'], ["a"]),
        (['"""a\n', "b\n"], ["a\nb"]),
        (['say """x"""\n'], ['say """x"""']),
        (["\ta  b \n"], ["\ta  b "]),
        ([], []),
    ],
)
def test_a_line_is_a_message_and_triple_quotes_hold_many(lines: list[str], messages: list[str]) -> None:
    assert list(join_quoted(lines)) == messages


@given(st.text(st.characters(exclude_characters='\r"', exclude_categories=["Cs"])))
def test_whatever_stands_between_triple_quotes_is_one_message(text: str) -> None:
    quoted = f'"""\n{text}\n"""'
    assert is_complete(quoted)
    assert unquote(quoted) == text.strip("\n")


def test_quotes_that_are_open_wait_for_more() -> None:
    assert [is_complete(t) for t in ('"""', '"""a', '"""a"', '"""a"""', "a", "")] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_conversation_drops_whole_turns_from_its_old_end() -> None:
    talk = Conversation("be brief")
    for turn in "ab":
        talk.ask(f"q{turn}")
        talk.reply(f"r{turn}")
    talk.ask("qc")
    assert talk.drop_oldest()
    assert talk.messages() == (
        Message("system", "be brief"),
        Message("user", "qb"),
        Message("assistant", "rb"),
        Message("user", "qc"),
    )
    assert talk.drop_oldest()
    assert not talk.drop_oldest()
    assert talk.messages() == (Message("system", "be brief"), Message("user", "qc"))


def test_the_last_question_can_be_undone_also_where_the_model_is_no_longer_told_it() -> None:
    talk = Conversation()
    for turn in "ab":
        talk.ask(f"q{turn}")
        talk.reply(f"r{turn}")
    assert talk.drop_oldest()
    assert talk.undo() == Message("user", "qb")
    assert talk.undo() == Message("user", "qa")
    assert talk.undo() is None
    talk.ask("c")
    assert talk.messages() == (Message("user", "c"),)


def test_a_summary_stands_after_the_system_message_and_in_the_place_of_turns() -> None:
    talk = Conversation("s")
    for turn in "ab":
        talk.ask(f"q{turn}")
        talk.reply(f"r{turn}")
    talk.summarize_oldest(1, "short")
    system, *rest = talk.messages()
    assert system.content.startswith("s\n\n")
    assert system.content.endswith("short")
    assert rest == [Message("user", "qb"), Message("assistant", "rb")]
    assert len(talk.turns) == 4


def test_a_question_without_an_answer_can_be_taken_back() -> None:
    talk = Conversation()
    talk.ask("a")
    talk.reply("b")
    talk.take_back()
    talk.ask("c")
    talk.take_back()
    assert talk.messages() == (Message("user", "a"), Message("assistant", "b"))


def test_clearing_keeps_the_system_message() -> None:
    talk = Conversation("s")
    talk.ask("a")
    talk.clear()
    assert talk.messages() == (Message("system", "s"),)
