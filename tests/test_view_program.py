"""Markdown and thoughts as a person sees them: the real program in a pseudo-terminal, its screen in an emulator."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from tests.environments import clean_environment
from tests.screens import FakeTerminal
from tests.thinking_models import QWEN3, write_script

THOUGHT = ("<think>", "let", " me", " see", "</think>", "\n\n")
WRITTEN = (
    "# Plan",
    "\nA **",
    "very",
    "** long line that",
    " wraps",
    ", with `",
    "code`.",
    "\n- ",
    "one",
    "\n-",
    " two",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_script(tmp_path_factory.mktemp("models") / "script.gguf", QWEN3, THOUGHT + WRITTEN)


def screen(model: Path, home: Path, *options: str, columns: int = 30) -> FakeTerminal:
    """The screen after one question."""
    arguments = ["-P", "-m", "llmrun.cli.main", "run", str(model), "go", "--temp", "0", "--think", "on", *options]
    environment = clean_environment(home)
    environment = {name: value for name, value in environment.items() if name not in ("NO_COLOR", "COLUMNS")}
    child = pexpect.spawn(
        sys.executable, arguments, env=environment, dimensions=(24, columns), encoding="utf-8", timeout=60
    )
    child.expect(pexpect.EOF)
    terminal = FakeTerminal(columns, 24)
    terminal.paint((child.before or "").replace("\r\n", "\n"))
    return terminal


ANSWER = ["Plan", "A very long line that wraps,", "with code.", "• one", "• two"]


def test_a_terminal_shows_markdown_and_that_the_model_thought(model: Path, tmp_path: Path) -> None:
    terminal = screen(model, tmp_path)
    rows = terminal.rows()
    assert rows[-5:] == ANSWER
    assert re.fullmatch(r"thought for \d+ s", rows[-6])
    assert terminal.style("Plan").bold
    assert terminal.style("very").bold
    assert not terminal.style("long").bold
    assert terminal.style("code.").fg == "cyan"


def test_thoughts_are_shown_or_hidden_as_was_asked_for(model: Path, tmp_path: Path) -> None:
    assert screen(model, tmp_path, "--show-thinking", "show", "-q").rows() == ["let me see", "", *ANSWER]
    assert screen(model, tmp_path, "--show-thinking", "hide", "-q").rows() == ANSWER


def test_plain_shows_the_marks(model: Path, tmp_path: Path) -> None:
    assert "# Plan" in screen(model, tmp_path, "--plain", "-q").rows()


def test_a_pipe_has_the_answer_as_it_was_written(model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llmrun.cli.main", "run", model, "go", "--temp", "0", "--think", "on", "-q"],
        env=clean_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == "".join(WRITTEN) + "\n"
    assert done.stderr == b""
