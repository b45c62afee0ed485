"""A chat through a running server, as a person has it: keys sent to the real program, its screen read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.terminal import Terminal
from tests.environments import clean_environment
from tests.serving import Server, serving

CTRL_C, CTRL_D, CTRL_U, ENTER = "\x03", "\x04", "\x15", "\r"
PROMPT = r"^>>> ?$"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


@contextmanager
def chat(home: Path, *arguments: str) -> Iterator[Terminal]:
    environment = clean_environment(home) | {"TERM": "xterm-256color"}
    environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-P", "-m", "llmrun.cli.main", "chat", *arguments]
    with Terminal(command, environment, 80, 40) as terminal:
        terminal.wait_for(PROMPT)
        yield terminal


def test_a_chat_goes_through_the_server_with_all_its_commands(server: Server) -> None:
    with chat(server.home, "guide", "--temp", "0") as terminal:
        assert f"using the server at {server.url}" in terminal.text()
        assert terminal.lines()[-1] == "guide · context 2,048 tokens"
        terminal.send("what is vram" + ENTER)
        terminal.wait_for(r"at full speed\.")
        terminal.send("/context" + ENTER)
        terminal.wait_for(r"^\. free")
        terminal.send("/plan" + ENTER)
        terminal.wait_for("quantization")
        terminal.send("/stats" + ENTER)
        terminal.wait_for(r"prompt +\d+ tokens")
        terminal.send("/model guide:F16" + ENTER)
        terminal.wait_for("F16")
        terminal.send("what is a kv cache" + ENTER)
        terminal.wait_for("keys and values")
        terminal.send("/model guide" + ENTER)
        terminal.wait_for(f"(?s)using the server at {server.url}.*using the server at {server.url}")
        terminal.send(CTRL_D)
        assert terminal.wait_for_end() == 0


def test_a_conversation_of_a_server_is_continued_through_it_and_without(server: Server) -> None:
    with chat(server.home, "guide", "--temp", "0") as first:
        first.send("what is vram" + ENTER)
        first.wait_for(r"at full speed\.")
        first.send(CTRL_D)
        assert first.wait_for_end() == 0
    for arguments in ((), ("--no-server", "--threads", "1")):
        with chat(server.home, "--continue", "--temp", "0", *arguments) as second:
            assert "going on with" in second.text()
            assert (f"using the server at {server.url}" in second.text()) == (not arguments)
            second.send("what is a kv cache" + ENTER)
            second.wait_for("keys and values")
            second.send(CTRL_D)
            assert second.wait_for_end() == 0


def test_ctrl_c_stops_an_answer_and_the_death_of_the_server_is_survived(tmp_path: Path, endless_model: Path) -> None:
    with (
        serving(tmp_path, str(endless_model), "--threads", "1", "--ctx", "65536") as server,
        chat(tmp_path, str(endless_model), "--temp", "0") as terminal,
    ):
        terminal.send("hello" + ENTER)
        terminal.wait_for("tick", drawn=False)
        terminal.send(CTRL_C)
        terminal.wait_for(r"stopped[\s\S]*of 65,536 tokens \(")
        terminal.send("hello" + ENTER)
        terminal.wait_for(r"stopped[\s\S]*^>>> hello[\s\S]*tick", drawn=False)
        server.process.kill()
        shown = " ".join(terminal.wait_for(r"loading the model here[\s\S]*>>> hello ?$").split())
        assert "went away in the middle of an answer" in shown
        terminal.send(CTRL_U + "/new" + ENTER)  # the question stands on the line again; what was said may be too long
        terminal.send("hello" + ENTER)
        terminal.wait_for(r"is kept\)[\s\S]*>>> /new[\s\S]*>>> hello[\s\S]*tick", drawn=False)
        terminal.send(CTRL_C)
        terminal.wait_for(r"is kept\)[\s\S]*stopped")
        terminal.send(CTRL_D)
        assert terminal.wait_for_end() == 0
