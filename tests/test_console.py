"""console: what reaches a terminal, and what a pipe."""

from __future__ import annotations

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from llmrun.console import Console, strip_control
from llmrun.errors import GGUFError, WorkerDiedError


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


HOSTILE = "a\x1b[2J\x1b]0;title\x07b\rc\x9b31m\x00\x7f\td\ne"


@given(st.text())
def test_no_control_character_survives(text: str) -> None:
    kept = strip_control(text)
    assert all(c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160) for c in kept)
    assert kept == "".join(c for c in text if c in kept or c in "\n\t")


def test_a_terminal_gets_no_escape_sequence_and_a_pipe_the_text_as_it_is() -> None:
    for stream, expected in ((Terminal(), "a[2J]0;titlebc31m\td\ne"), (io.StringIO(), HOSTILE)):
        Console(out=stream, err=io.StringIO()).answer(HOSTILE)
        assert stream.getvalue() == expected


def test_errors_reach_a_terminal_without_escape_sequences() -> None:
    err = Terminal()
    Console(out=io.StringIO(), err=err).error(GGUFError("bad \x1b[31mfile", "try \x1b[0mit"))
    assert err.getvalue() == "error: bad \\x1b[31mfile\nhint: try \\x1b[0mit\n"


def test_a_dead_worker_is_told_with_its_last_words() -> None:
    err = io.StringIO()
    Console(out=io.StringIO(), err=err).error(WorkerDiedError("gone", None, ("GGML_ASSERT failed",)))
    assert err.getvalue() == "engine: GGML_ASSERT failed\nerror: gone\n"


def test_quiet_keeps_talk_back_but_not_errors() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(quiet=True, out=out, err=err)
    console.say("hello")
    console.notice("(stopped)")
    console.error(GGUFError("bad"))
    assert (out.getvalue(), err.getvalue()) == ("", "(stopped)\nerror: bad\n")


def test_a_status_line_is_taken_away_before_anything_else_is_printed() -> None:
    err = Terminal()
    console = Console(out=Terminal(), err=err)
    console.status("reading")
    console.say("done")
    assert err.getvalue() == "reading\r       \rdone\n"


def test_no_status_line_reaches_a_file() -> None:
    err = io.StringIO()
    Console(out=io.StringIO(), err=err).status("reading")
    assert err.getvalue() == ""


def test_the_answer_ends_its_line_exactly_once() -> None:
    out = io.StringIO()
    console = Console(out=out, err=io.StringIO())
    for text in ("a", "b\n"):
        console.answer(text)
        console.end_answer()
    assert out.getvalue() == "a\nb\n"


def test_data_is_one_line_of_json() -> None:
    out = io.StringIO()
    Console(out=out, err=io.StringIO()).data({"answer": "é\n\x1b"})
    assert out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue()) == {"answer": "é\n\x1b"}
