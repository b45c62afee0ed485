"""chat.view: what it makes of terminals, pipes, thoughts and whatever comes in between."""

from __future__ import annotations

import io
import re

import pytest

from llmrun.chat.view.markdown import MarkdownView
from llmrun.chat.view.view import View, make_view
from llmrun.console import AnswerStyle, Console
from tests.screens import Clock, FakeTerminal, letters, show


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def opened(
    out: io.StringIO, err: io.StringIO, style: AnswerStyle, *, quiet: bool = False
) -> tuple[View, Console, Clock]:
    console, clock = Console(quiet=quiet, style=style, out=out, err=err), Clock()
    return make_view(console, clock=clock), console, clock


def shown(out: io.StringIO, style: AnswerStyle, text: str = "**a** \x1b[2J`b`") -> str:
    view, _, _ = opened(out, io.StringIO(), style)
    view.answer(text)
    view.end()
    return out.getvalue()


def test_a_terminal_gets_markdown_and_a_pipe_the_bytes() -> None:
    assert shown(Terminal(), AnswerStyle()) == "\x1b[1ma\x1b[m [2J\x1b[36mb\x1b[m\n"
    assert shown(io.StringIO(), AnswerStyle()) == "**a** \x1b[2J`b`"


def test_plain_is_as_it_comes() -> None:
    assert shown(Terminal(), AnswerStyle(markdown=False)) == "**a** [2J`b`"


def test_a_dumb_terminal_gets_no_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert shown(Terminal(), AnswerStyle()) == "**a** [2J`b`"


def test_a_terminal_that_has_no_unicode_gets_no_markdown() -> None:
    class Old(Terminal):
        encoding = "ascii"

    assert shown(Old(), AnswerStyle()) == "**a** [2J`b`"


def test_no_color_means_none_and_code_keeps_its_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    written = shown(Terminal(), AnswerStyle(), "**a** `b`\n\n```python\ndef f(): 'x'\n```\n")
    codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", written) for code in found.split(";")}
    assert codes <= {"", "0", "1", "2", "3", "4", "9"}
    assert "`b`" in written


def think(view: View, clock: Clock) -> None:
    for text in ("\n", "let me", " see, ", "thinking ", "hard"):
        view.thought(text)
        clock.now += 3.0
    view.answer("\n\nso **it** is")
    view.end()


def test_thoughts_are_folded_into_a_line() -> None:
    out, err = Terminal(), Terminal()
    view, _, clock = opened(out, err, AnswerStyle())
    think(view, clock)
    lines = [line for line in re.split(r"[\r\n]+", err.getvalue()) if line.strip()]
    assert lines == [
        "thinking… 0 s, 2 words",
        "thinking… 3 s, 3 words",
        "thinking… 6 s, 4 words",
        "thinking… 9 s, 5 words",
        "\x1b[2mthought for 12 s\x1b[m",
    ]
    assert "let me" not in out.getvalue()


def test_the_line_is_drawn_a_few_times_a_second_at_most() -> None:
    err = Terminal()
    view, _, clock = opened(Terminal(), err, AnswerStyle())
    for _ in range(1000):
        clock.now += 0.001
        view.thought("word ")
    assert err.getvalue().count("thinking") <= 5


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("style", [AnswerStyle(), AnswerStyle(thoughts="hide")])
def test_a_pipe_gets_the_answer_alone(style: AnswerStyle, quiet: bool) -> None:
    out, err = io.StringIO(), io.StringIO()
    view, _, clock = opened(out, err, style, quiet=quiet)
    think(view, clock)
    assert (out.getvalue(), err.getvalue()) == ("\n\nso **it** is", "")


def test_hidden_thoughts_leave_nothing_on_a_terminal() -> None:
    err = Terminal()
    view, _, clock = opened(Terminal(), err, AnswerStyle(thoughts="hide"))
    think(view, clock)
    assert err.getvalue() == ""


def test_with_show_a_pipe_has_thoughts_on_the_other_side() -> None:
    out, err = io.StringIO(), io.StringIO()
    view, _, clock = opened(out, err, AnswerStyle(thoughts="show"))
    think(view, clock)
    assert out.getvalue() == "\n\nso **it** is"
    assert err.getvalue() == "let me see, thinking hard\n\n"


def test_with_show_a_terminal_has_thoughts_dimmed_and_as_they_are_written() -> None:
    out = Terminal()
    view, _, clock = opened(out, Terminal(), AnswerStyle(thoughts="show"))
    view.thought("\n*hm*\n\n- so\n\n")
    clock.now += 1
    view.answer("\nyes")
    view.end()
    assert out.getvalue() == "\x1b[2m*hm*\x1b[m\n\n\x1b[2m- so\x1b[m\n\nyes\n"


def test_thoughts_between_answers_are_lines_of_their_own() -> None:
    terminal, clock = FakeTerminal(), Clock()
    view = MarkdownView(terminal, clock=clock)
    for add, text in ((view.answer, "one **two"), (view.thought, "hm"), (view.answer, "three"), (view.thought, " ")):
        clock.now += 1
        add(text)
    view.end()
    assert terminal.rows() == ["one **two", "", "hm", "", "three"]


@pytest.mark.parametrize("columns", [30, 60, 79, 120])
def test_a_terminal_that_is_resized_keeps_what_is_there(columns: int) -> None:
    text = "".join(f"word{n} **bold{n}** " for n in range(60)) + "\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n"
    terminal, clock = FakeTerminal(120, 24), Clock()  # wide enough to show what was drawn before
    terminal.columns, before = 80, [""]
    view = MarkdownView(terminal, clock=clock)
    for begin in range(0, len(text), 7):
        clock.now += 1
        view.answer(text[begin : begin + 7])
        if begin == 700:
            terminal.columns, before = columns, terminal.rows()
    view.end()
    assert letters(terminal.text()) == letters(text)
    assert terminal.rows()[: len(before) - 1] == before[:-1]


def test_what_others_write_in_between_stands_between() -> None:
    out = Terminal()
    view, console, clock = opened(out, out, AnswerStyle())
    view.answer("one two **thr")
    console.notice("(note)")
    clock.now += 1
    view.answer("ee** four\n\nnext")
    view.end()
    screen = FakeTerminal()
    screen.paint(out.getvalue())
    assert screen.rows() == ["one two thr", "(note)", "ee** four", "", "next"]


def test_breaking_off_leaves_the_terminal_clean() -> None:
    terminal = FakeTerminal()
    view = MarkdownView(terminal, clock=Clock(1.0))
    view.answer("some **bold")
    view.leave()
    assert terminal.written.endswith("\x1b[m\n")
    assert "?25l" not in terminal.written  # the cursor was never hidden
    terminal.paint("x")
    assert terminal.rows() == ["some bold", "x"]
    assert not terminal.style("x").bold


def test_nothing_is_written_for_an_answer_that_never_came() -> None:
    for finish in (MarkdownView.end, MarkdownView.leave):
        terminal = FakeTerminal()
        finish(MarkdownView(terminal, clock=Clock()))
        assert terminal.written == ""


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_wide_characters_and_marks_stay_in_their_row(columns: int) -> None:
    text = "漢字かな交じり文を、" * 12 + "🙂" * 30 + "e\u0301" * 90
    terminal = show(text, columns)
    rows = terminal.rows()
    assert "".join(rows) == text.replace("e\u0301", "é")
    assert not any(row.startswith("、") for row in rows)
