"""The chat as a person has it, at 80 and at 40 columns: keys sent to the real program, its screen read."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from scripts.terminal import Terminal
from tests.environments import clean_environment

CTRL_D, TAB, ENTER = "\x04", "\t", "\r"
PROMPT = r"^>>> ?$"
Open = Callable[..., Terminal]


@pytest.fixture
def open_chat(tmp_path: Path) -> Iterator[Open]:
    """A function that begins a chat in a terminal, in a home that stays the same."""
    with ExitStack() as stack:

        def start(*arguments: str, columns: int = 80, ready: bool = True, **env: str) -> Terminal:
            command = [sys.executable, "-P", "-m", "llmrun.cli.main", "chat", *arguments]
            everything = clean_environment(tmp_path) | {"TERM": "xterm-256color"} | env
            everything = {name: value for name, value in everything.items() if name not in ("COLUMNS", "LINES")}
            terminal = stack.enter_context(Terminal(command, everything, columns, 30))
            if ready:
                terminal.wait_for(PROMPT)
            return terminal

        yield start


@pytest.mark.parametrize("columns", [80, 40])
def test_a_first_run_tells_a_story_that_fits(open_chat: Open, columns: int) -> None:
    chat = open_chat("guide", "--temp", "0", columns=columns)
    told = chat.text()
    for name in ("machine", "model", "runs", "speed"):
        assert f"\n{name}" in f"\n{told}"
    assert "free" in told
    assert "Q8_0" in told
    assert max(map(len, chat.lines())) <= columns
    assert not any(line.endswith("-") for line in chat.lines())


@pytest.mark.parametrize("columns", [80, 40])
def test_the_line_below_shows_model_tokens_and_speed(open_chat: Open, columns: int) -> None:
    chat = open_chat("guide", "--temp", "0", columns=columns)
    assert chat.lines()[-1] == "guide · context 2,048 tokens"
    chat.send("what is vram" + ENTER)
    chat.wait_for(r"\d+ of 2,048 tokens \(\d+%\)")
    assert ("tok/s" in chat.lines()[-1]) == (columns == 80)


@pytest.mark.parametrize("columns", [80, 40])
def test_answers_and_what_is_told_are_broken_between_words(open_chat: Open, columns: int) -> None:
    chat = open_chat("guide", "--temp", "0", columns=columns)
    chat.send("what is vram" + ENTER)
    chat.wait_for(r"at full speed\.")
    chat.send("/set think high" + ENTER)
    shown = chat.wait_for("error: guide does not think[^>]*>>>")
    assert "graphics card's own" in " ".join(shown.split())
    words = set(shown.split())
    assert {"enable_thinking", "reasoning_effort", "placed", "template"} <= words


@pytest.mark.parametrize("columns", [80, 40])
def test_what_fills_the_context_is_shown_as_a_bar(open_chat: Open, columns: int) -> None:
    chat = open_chat("guide", "--temp", "0", columns=columns)
    chat.send("what is vram" + ENTER)
    chat.wait_for(r"at full speed\.")
    chat.send("/context" + ENTER)
    chat.wait_for(r"^\. free")
    bar = next(line for line in chat.lines() if line.startswith("[="))
    assert len(bar) == min(62, columns - 1)


def test_tab_completes_commands_settings_and_files(open_chat: Open, tmp_path: Path) -> None:
    notes = tmp_path / "notes-of-mine.txt"
    notes.write_text("the card has 8 GiB\n", "utf-8")
    chat = open_chat("guide")
    chat.send("/cont" + TAB)
    chat.wait_for("^>>> /context")
    chat.send(ENTER)
    chat.wait_for("nothing fills the context yet")
    chat.send("/set see" + TAB)
    chat.wait_for("^>>> /set seed")
    chat.send("7" + ENTER)
    chat.wait_for("seed is 7 from here on")
    chat.send(f"/file {tmp_path}/notes-of" + TAB)
    chat.wait_for(r"\s*(\.\.\. )?".join(map(re.escape, "notes-of-mine.txt")))  # a line may break anywhere in it
    chat.send(ENTER)
    chat.wait_for("it goes with the next question")
    chat.send("what is vram" + ENTER)
    chat.wait_for(r"\d+ of 2,048 tokens")
    chat.send("/edit" + ENTER)
    chat.wait_for("the card has 8 GiB")


def test_pasted_lines_are_one_message_and_are_not_sent_by_themselves(open_chat: Open) -> None:
    chat = open_chat("guide", "--temp", "0")
    chat.send("\x1b[200~/exit\nwhat is vram\n\x1b[201~")
    shown = chat.wait_for(r"what is vram")
    assert "tokens (" not in shown
    chat.send(ENTER)
    chat.wait_for(r"\d+ of 2,048 tokens \(")


def test_edit_opens_the_editor_with_the_last_question(open_chat: Open, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/vram/a kv cache/" "$1"\n', "utf-8")
    editor.chmod(0o755)
    chat = open_chat("guide", "--temp", "0", EDITOR=str(editor))
    chat.send("what is vram" + ENTER)
    chat.wait_for(r"at full speed\.")
    chat.send("/edit" + ENTER)
    chat.wait_for("keys and values")


def test_without_an_editor_the_last_question_stands_on_the_line_again(open_chat: Open) -> None:
    chat = open_chat("guide", "--temp", "0")
    chat.send("what is vram" + ENTER)
    chat.wait_for(r"at full speed\.")
    chat.send("/edit" + ENTER)
    chat.wait_for(r"^>>> what is vram$\n\n?")
    chat.send(" and ram" + ENTER)
    chat.wait_for(r"^>>> what is vram and ram")


def test_a_conversation_is_continued_where_it_was_left(open_chat: Open, tmp_path: Path) -> None:
    first = open_chat("guide", "--temp", "0")
    first.send("what is vram" + ENTER)
    first.wait_for(r"at full speed\.")
    first.send("/save cards" + ENTER)
    first.wait_for("it is called cards")
    first.send(CTRL_D)
    assert first.wait_for_end() == 0
    second = open_chat("--continue", "--temp", "0")
    assert "going on with cards" in second.text()
    second.send("what is a kv cache" + ENTER)
    second.wait_for("keys and values")
    second.send("/stats" + ENTER)
    shown = second.wait_for(r"prompt +\d+ tokens: \d+ cached")
    cached = int(shown.rpartition("tokens: ")[2].split()[0])
    assert cached >= 39
    second.send("/sessions" + ENTER)
    second.wait_for(r"cards: what is vram")


def test_a_system_message_that_is_given_now_holds_for_what_is_continued(open_chat: Open) -> None:
    first = open_chat("guide", "--temp", "0", "--system", "you are old")
    first.send("what is vram" + ENTER)
    first.wait_for(r"\d+ of 2,048 tokens \(")
    first.send(CTRL_D)
    assert first.wait_for_end() == 0
    second = open_chat("--continue", "--temp", "0", "--system", "you are new")
    second.send("/system" + ENTER)
    second.wait_for("^you are new")
    second.send(CTRL_D)
    assert second.wait_for_end() == 0
    third = open_chat("--continue", "--temp", "0")
    third.send("/system" + ENTER)
    third.wait_for("^you are new")


def test_nothing_is_left_of_a_chat_without_history(open_chat: Open, tmp_path: Path) -> None:
    chat = open_chat("guide", "--no-history")
    chat.send("what is vram" + ENTER)
    chat.wait_for(r"\d+ of 2,048 tokens \(")
    chat.send(CTRL_D)
    assert chat.wait_for_end() == 0
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not names & {"chat_history", "conversations.db"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"what is vram" in path.read_bytes()]


def test_another_model_goes_on_with_the_conversation(open_chat: Open) -> None:
    chat = open_chat("guide", "--temp", "0")
    chat.send("what is vram" + ENTER)
    chat.wait_for(r"at full speed\.")
    chat.send("/model guidde" + ENTER)
    chat.wait_for("error: ")
    chat.send("/model guide:Q4_K_M" + ENTER)
    chat.wait_for("Q4_K_M")
    chat.send("/context" + ENTER)
    chat.wait_for(r"^= questions +3")


def test_tab_completes_models(open_chat: Open) -> None:
    chat = open_chat("guide")
    chat.send("/model qwen3:0." + TAB)
    chat.wait_for(r"^>>> /model qwen3:0\.6b")


def test_a_file_is_kept_under_a_name_that_means_the_same_elsewhere(
    open_chat: Open, tmp_path: Path, guide_file: Path
) -> None:
    chat = open_chat(f"./{os.path.relpath(guide_file)}", "--temp", "0")
    chat.send("what is vram" + ENTER)
    chat.wait_for(r"at full speed\.")
    chat.send(f"/export json {tmp_path}/x.json" + ENTER)
    chat.wait_for("the conversation is in")
    named = Path(json.loads((tmp_path / "x.json").read_text("utf-8"))["model"])
    assert named.is_absolute()
    assert named.samefile(guide_file)


def test_a_full_context_asks_what_is_to_go(open_chat: Open) -> None:
    chat = open_chat("guide", "--temp", "0", "--ctx", "256", "-n", "20")
    filler = "what is vram " + "x1" * 60
    for _ in range(2):
        chat.send(filler + ENTER)
        chat.wait_for(r"stopped after --max-tokens[\s\S]*\n>>> *(\n|$)")
    chat.wait_for("of the context is used|the context holds")
    chat.send(filler + ENTER)
    shown = chat.wait_for(r"^n  neither")
    assert "s  summarise the older half" in shown
    chat.send("n")
    chat.wait_for("taken back: /new begins anew")
    chat.send(ENTER)  # it stands on the line again
    chat.wait_for(r"^n  neither[\s\S]*^n  neither")
    chat.send("d")
    chat.wait_for("going on without the oldest question")


def test_an_export_can_be_read_by_programs(open_chat: Open, tmp_path: Path) -> None:
    chat = open_chat("guide", "--temp", "0")
    chat.send("what is vram" + ENTER)
    chat.wait_for(r"at full speed\.")
    chat.send(f"/export json {tmp_path}/x.json" + ENTER)
    chat.wait_for("the conversation is in")
    exported = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert [turn["role"] for turn in exported["turns"]] == ["user", "assistant"]
