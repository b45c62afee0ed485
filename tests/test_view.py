"""chat.view: Markdown as it streams onto a terminal, seen on the screen."""

from __future__ import annotations

from pathlib import Path
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.chat.view.markdown import MarkdownView
from tests.screens import Clock, FakeTerminal, letters, show

ANSWERS = sorted((Path(__file__).parent / "golden" / "answers").glob("*.md"))
WIDTHS = (80, 40, 20)

# Pieces that mean something in Markdown, and some that do not, put together at random
# fmt: off
PIECES = st.sampled_from([
    *"abcdefg", "word ", "longer words ", "\n", "\n\n", " ", "  ", "    ", "\t", "- ", "* ", "1. ", "2) ", "> ", ">",
    "# ", "### ", "*", "**", "_", "__", "`", "``", "```", "```py\n", "~~~\n", "~~", "[", "](", ")", "![", "<", "&amp;",
    "\\", "|", "$", "|a|b|\n|-|-|\n", "|x|y|\n", "---\n", "***\n", "漢字", "é", "e\u0301", "🙂", "http://a.b/c",
    "x" * 30, "1", "2024. ",
])
# fmt: on
TEXTS = st.lists(PIECES, max_size=60).map("".join)
SHORT_TEXTS = st.lists(PIECES, max_size=12).map("".join)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_an_answer_is_on_the_screen_whole_and_within_the_width(path: Path, columns: int) -> None:
    """Nothing lost, nothing added, nothing twice; cells of a table stand side by side, so their order may differ."""
    text = path.read_text("utf-8")
    terminal = show(text, columns)
    shown, written = letters(terminal.text()), letters("".join(c for c in text if c.isascii() or c.isalpha()))
    if "|--" in text:
        shown, written = "".join(sorted(shown)), "".join(sorted(written))
    assert shown == letters(written)
    assert max(map(len, terminal.rows())) < columns


@given(TEXTS, st.sampled_from(WIDTHS), st.integers(1, 40), st.sampled_from([5, 24]))
@settings(deadline=None, max_examples=150)
def test_no_letter_is_lost_changed_or_added_whatever_the_text(text: str, columns: int, piece: int, lines: int) -> None:
    terminal = show(text, columns, lines, piece)
    assert sorted(letters(terminal.text())) == sorted(letters(text))


@given(st.text(max_size=200), st.integers(1, 9), st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_no_text_and_no_size_is_too_odd(text: str, columns: int, lines: int) -> None:
    terminal = FakeTerminal(columns, lines)
    view = MarkdownView(terminal, clock=Clock())
    view.answer(text)
    view.end()
    assert all(c in "\n\x1b" or c.isprintable() or ord(c) >= 160 for c in terminal.written.replace("\r", ""))


@given(SHORT_TEXTS, st.sampled_from(WIDTHS), st.integers(1, 20))
@settings(deadline=None, max_examples=100)
def test_in_pieces_or_at_once_is_the_same_in_the_end(text: str, columns: int, piece: int) -> None:
    """Of texts that are short enough for nothing in them to be settled early."""
    assert show(text, columns, 60, piece).rows() == show(text, columns, 60, max(1, len(text))).rows()


def test_what_markdown_means_is_seen() -> None:
    terminal = show(
        "# Title\n\nsome **bold**, *slanted* and `code`\n\n- item\n  1. inner\n\n> quoted\n\n---\n\n~~gone~~"
    )
    assert terminal.rows() == [
        *("Title", "", "some bold, slanted and code", "", "• item", "  1. inner", ""),
        *("│ quoted", "", "────────", "", "gone"),
    ]
    assert terminal.style("Title").bold
    assert terminal.style("bold").bold
    assert terminal.style("slanted").italics
    assert terminal.style("code").fg == "cyan"
    assert terminal.style("gone").strikethrough


def test_a_link_shows_where_it_leads() -> None:
    terminal = show('[here](http://x.y/ü "title"), <http://a.b>, ![picture](p.png)', 100)
    assert terminal.rows() == ['here (http://x.y/ü "title"), http://a.b, picture (p.png)']


def test_code_is_highlighted_and_stands_as_it_was_written() -> None:
    terminal = show("```python\ndef f():\n\n    return 'a'  # note\n```\nafter")
    assert terminal.rows() == ["──── python", "def f():", "", "    return 'a'  # note", "────", "after"]
    assert terminal.style("def").fg == "magenta"
    assert terminal.style("'a'").fg == "green"


def test_code_in_a_string_over_many_lines_keeps_its_colour() -> None:
    terminal = show('```python\nx = """\n' + "for this\n" * 5 + '"""\nfor y in x: pass\n```')
    assert terminal.style("for this").fg == "green"
    assert terminal.style("for y").fg == "magenta"


def test_columns_of_a_table_are_aligned() -> None:
    terminal = show("| name | size |\n|:--|--:|\n| a | 1 |\n| longer | 1,000 |\n\nafter")
    assert terminal.rows() == ["name     size", "a           1", "longer  1,000", "", "after"]


def test_a_cell_too_many_is_shown_as_well() -> None:
    assert letters(show("|a|b|\n|-|-|\n|1|2|3|4|\n").text()) == "ab1234"


def test_entities_and_html_are_text() -> None:
    assert show("a &lt; <b>x</b>\n\n<div>y</div>").rows() == ["a &lt; <b>x</b>", "", "<div>y</div>"]


def test_mathematics_is_left_alone() -> None:
    text = r"\( a_1 * b_1 * c \) and $x_1*y*z$, but $5 and *this* for $6"
    assert show(text).rows() == [text.replace("*this*", "this")]


def test_broken_markdown_is_text() -> None:
    assert show("**bold and `code\n\n[link](").rows() == ["**bold and `code", "", "[link]("]


def test_a_mark_is_not_seen_before_it_is_clear_what_it_does() -> None:
    """No frame shows a star that will be gone, nor a line that will be something else."""
    terminal, clock = FakeTerminal(), Clock()
    view = MarkdownView(terminal, clock=clock)
    for char in "- some **bold *and* slanted** `code`\n- next\n1. one":
        clock.now += 1.0
        view.answer(char)
        assert not set("*`-") & set(terminal.text())


def test_the_screen_is_drawn_twenty_times_a_second_at_most() -> None:
    terminal, clock = FakeTerminal(), Clock()
    view = MarkdownView(terminal, clock=clock)
    for _ in range(1000):  # one second of a fast model
        clock.now += 0.001
        view.answer("word ")
    assert 10 <= len(terminal.painted) <= 21


def test_what_is_finished_is_never_drawn_again() -> None:
    terminal = FakeTerminal()
    view = MarkdownView(terminal, clock=Clock(1.0))
    view.answer("first **one**\n\nsecond\n\n")
    view.redraw()
    before = len(terminal.painted)
    view.answer("third is `open`")
    view.end()
    assert "A" not in "".join(terminal.painted[before:])  # the cursor never goes up


@pytest.mark.parametrize("lines", [8, 24])
def test_a_paragraph_taller_than_the_screen_stays_whole(lines: int) -> None:
    text = "".join(f"word{n} **bold{n}** `code{n}` " for n in range(300))
    terminal = show(text, 40, lines, 37)
    assert letters(terminal.text()) == letters(text)


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("columns", WIDTHS)
def test_few_bytes_are_written_even_with_a_redraw_for_each_token(path: Path, columns: int) -> None:
    text = path.read_text("utf-8")
    assert len(show(text, columns, piece=4, emulated=False).written.encode()) <= 6 * len(text.encode())


BIG = {
    "table": "|n|text|more|\n|-|-|-|\n" + "".join(f"|{n}|{'long ' * (n % 9)}|m|\n" for n in range(300)),
    "growing table": "|n|text|\n|-|-|\n" + "".join(f"|{n}|{'w' * n}|\n" for n in range(60)),
    "paragraph": "the quick *brown* fox `jumps` over " * 200,
    "code": "```python\n" + "value = compute(first, 'second', 3)  # note\n" * 100 + "```",
    "list": "".join(f"{n}. item **{n}** of many\n   - with more\n" for n in range(200)),
    "quote": "> " + "quoted words that go on " * 200,
}


@pytest.mark.parametrize("name", BIG)
def test_few_bytes_are_written_for_what_is_long(name: str) -> None:
    terminal = show(BIG[name])
    assert len(terminal.written.encode()) <= 6 * len(BIG[name].encode())
    assert sorted(letters(terminal.text())) == sorted(letters(BIG[name]))


HOSTILE = {
    "paragraph": "lorem ipsum dolor sit amet " * 7_500,
    "no space": "x" * 200_000,
    "backticks": "`" * 10_000,
    "stars": "**a " * 5_000,
    "brackets": "[" * 10_000,
    "links": "[a](" * 5_000,
    "quotes": ">" * 10_000 + "a",
    "lists": "- " * 5_000 + "x" + "\n\n" * 500,
    "row": "|a|b|\n|-|-|\n|" + "word " * 20_000,
    "columns": "|a" * 2_000 + "|\n" + "|-" * 2_000 + "|\n",
    "line of code": "```python\n" + "y" * 200_000,
    "marks": "e" + "\u0301" * 50_000,
    "lines": "a\n" * 20_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_no_time_and_does_no_harm(name: str) -> None:
    """In two pieces; in more, a redraw that takes long makes the next one wait."""
    text = HOSTILE[name]
    begun = process_time()
    terminal = FakeTerminal(emulated=False)
    view = MarkdownView(terminal, clock=Clock(1.0))
    view.answer(text[: len(text) // 2])
    view.answer(text[len(text) // 2 :])
    view.end()
    assert process_time() - begun < 5
    most = max(set(text), key=text.count)
    assert not most.isalnum() or terminal.written.count(most) >= text.count(most)
