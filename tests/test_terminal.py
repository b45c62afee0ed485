"""The chat as a person has it: the real program in a pseudo-terminal of 80 columns, keys sent, screen read."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import psutil
import pytest

from scripts.synthetic import FIRST_FILLER, TINY, Shape, byte_texts, write_model
from tests.environments import clean_environment

if TYPE_CHECKING:
    Spawn = pexpect.spawn[str]
else:
    Spawn = pexpect.spawn
Open = Callable[..., Spawn]
PROMPT = ">>>"
CTRL_C, CTRL_D, ALT_ENTER, UP = "\x03", "\x04", "\x1b\r", "\x1b[A"


@pytest.fixture
def open_chat(tmp_path: Path) -> Iterator[Open]:
    opened: list[Spawn] = []

    def start(*arguments: str, ready: bool = True) -> Spawn:
        child = pexpect.spawn(
            sys.executable,
            ["-P", "-m", "llmrun.cli.main", "chat", *arguments],
            env=clean_environment(tmp_path) | {"PROMPT_TOOLKIT_NO_CPR": "1"},
            dimensions=(24, 80),
            encoding="utf-8",
            codec_errors="replace",
            timeout=20,
        )
        opened.append(child)
        if ready:
            child.expect(PROMPT)
        return child

    yield start
    for child in opened:
        child.close(force=True)


def before(child: Spawn) -> str:
    """What was on the screen before the last thing that was expected."""
    return child.before or ""


def ended(child: Spawn) -> int:
    child.expect(pexpect.EOF)
    child.wait()
    return int(child.exitstatus if child.exitstatus is not None else -1)


def test_a_question_gets_its_answer_and_a_new_prompt(open_chat: Open) -> None:
    chat = open_chat("guide")
    chat.send("what is a kv cache\r")
    chat.expect("KV cache.*keys and values")
    chat.expect(PROMPT)
    chat.send(CTRL_D)
    assert ended(chat) == 0


def test_the_chat_introduces_the_model_in_lines_that_fit(open_chat: Open) -> None:
    chat = open_chat("guide")
    seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", before(chat))
    assert "guide: " in seen
    assert "/help" in seen
    assert max(len(line) for line in seen.splitlines()) <= 80


def test_quiet_says_nothing_before_the_prompt(open_chat: Open) -> None:
    chat = open_chat("guide", "--quiet")
    assert "guide" not in before(chat)


def test_ctrl_c_stops_an_answer_and_keeps_the_chat(open_chat: Open, endless_model: Path) -> None:
    chat = open_chat(str(endless_model), "--ctx", "100000", "--temp", "0", "-t", "1")
    chat.send("go\r")
    chat.expect("tick")
    chat.send(CTRL_C)
    chat.expect(r"\(stopped\)")
    chat.expect(PROMPT)
    chat.send("/stats\r")
    chat.expect("answer   ")
    chat.expect(PROMPT)
    chat.send(CTRL_C)
    assert ended(chat) == 130


def test_a_ctrl_c_that_comes_just_after_an_answer_does_not_leave(open_chat: Open) -> None:
    chat = open_chat("guide")
    chat.send("hello\r")
    chat.expect("Hello")
    chat.expect(PROMPT)
    chat.send(CTRL_C)
    chat.expect("Ctrl-C again, or Ctrl-D, leaves")
    chat.expect(PROMPT)
    chat.send(CTRL_C)
    assert ended(chat) == 130


def test_ctrl_c_on_a_line_that_is_being_typed_clears_it(open_chat: Open) -> None:
    chat = open_chat("guide")
    chat.send("/exi")
    chat.send(CTRL_C)
    chat.send("/exit\r")
    assert ended(chat) == 0


def test_enter_between_triple_quotes_makes_a_new_line(open_chat: Open) -> None:
    chat = open_chat("guide")
    chat.send('"""what is\r')
    chat.expect(r"\.\.\.")
    chat.send('a kv cache"""\r')
    chat.expect("keys and values")


def test_alt_enter_makes_a_new_line(open_chat: Open) -> None:
    chat = open_chat("guide")
    chat.send("what is" + ALT_ENTER)
    chat.expect(r"\.\.\.")
    chat.send("a kv cache\r")
    chat.expect("keys and values")


def test_the_history_comes_back_in_the_next_chat_and_is_private(open_chat: Open, tmp_path: Path) -> None:
    first = open_chat("guide")
    first.send("/system remember me\r")
    first.expect(PROMPT)
    first.send(CTRL_D)
    ended(first)
    second = open_chat("guide")
    second.send(UP)
    second.expect("remember me")
    files = list(tmp_path.rglob("chat_history"))
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600]


def test_the_history_can_be_searched(open_chat: Open) -> None:
    chat = open_chat("guide")
    chat.send("/system first\r")
    chat.expect("is set")
    chat.expect(PROMPT)
    chat.send("/clear\r")
    chat.expect("forgotten")
    chat.expect(PROMPT)
    chat.send("\x12sys")
    chat.expect("first")
    chat.send("\r\r")
    chat.expect("is set")


def test_a_mistake_is_told_and_the_chat_goes_on(open_chat: Open) -> None:
    chat = open_chat("guide")
    chat.send("/hlep\r")
    chat.expect("error: there is no command /hlep")
    chat.expect("hint: did you mean /help")
    chat.expect(PROMPT)
    chat.send("/help\r")
    chat.expect("/system")
    chat.expect(PROMPT)


def worker_of(child: Spawn) -> psutil.Process:
    return next(p for p in psutil.Process(child.pid).children() if "llmrun.worker" in p.cmdline())


def test_the_chat_survives_the_death_of_the_engine(open_chat: Open, endless_model: Path) -> None:
    chat = open_chat(str(endless_model), "--ctx", "100000", "--temp", "0", "-t", "1")
    chat.send("go\r")
    chat.expect("tick")
    os.kill(worker_of(chat).pid, signal.SIGKILL)
    chat.expect("error: the engine's process was killed")
    chat.expect("starting the engine again")
    chat.expect(PROMPT)
    chat.expect("go")  # the question stands on the line again
    chat.send("\r")
    chat.expect("tick")


def test_closing_the_terminal_leaves_no_worker(open_chat: Open, endless_model: Path) -> None:
    chat = open_chat(str(endless_model), "--ctx", "100000", "--temp", "0", "-t", "1")
    worker = worker_of(chat)
    chat.send("go\r")
    chat.expect("tick")
    chat.close(force=False)  # SIGHUP, as when a window is closed
    worker.wait(timeout=10)
    assert not worker.is_running()


def test_the_terminal_obeys_no_escape_sequence_of_a_model(open_chat: Open, tmp_path: Path) -> None:
    """Its every token rings, renames the window and clears the screen; so does its name."""
    evil = "\x1b]0;pwned\x07\x1b[2J\r\x9b5m"
    texts = byte_texts()
    token = "".join(texts[byte] for byte in evil.encode())
    pieces = {index: f"{token}{index}" for index in range(FIRST_FILLER, 512)}
    path = write_model(
        tmp_path / "evil.gguf",
        replace(TINY, tied=False),
        metadata={"general.name": f"evil{evil}"},
        pieces=pieces,
        writes=range(FIRST_FILLER, 512),
    )
    chat = open_chat(str(path), "-n", "20", "--temp", "0")
    assert "\x1b]0;pwned" not in before(chat)
    assert "\x1b[2J" not in before(chat)
    assert "evil\\x1b]0;pwned" in before(chat)
    chat.send("go\r")
    chat.expect(r"\(stopped after")
    assert "]0;pwned" in before(chat)
    assert re.search(r"\x1b\]0;pwned|\x1b\[2J|\x07", before(chat)) is None


def test_a_long_prompt_shows_how_far_it_is(open_chat: Open, tmp_path: Path) -> None:
    shape = Shape(n_layer=16, n_embd=1024, n_ff=8192, n_head=16, n_head_kv=16, n_ctx_train=8192)
    path = write_model(tmp_path / "slow.gguf", shape)
    chat = open_chat(str(path), "-n", "1", "--threads", "1")
    chat.send("x" * 4000 + "\r")
    chat.expect(r"reading [\d,]+ of [\d,]+ tokens, .* left")
    chat.send(CTRL_C)
    chat.expect(r"\(stopped\)")
    chat.expect(PROMPT)
