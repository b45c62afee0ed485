"""Models that think: what can be set, what is chosen, and what the real engine makes of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmrun
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate, Grammar, Usage
from llmrun.errors import UsageError
from llmrun.message import Message
from llmrun.thinking import ENOUGH_SPEED, PATIENCE, THOUGHT_TOKENS, WISHES, Thinking, choose_thinking
from tests.conftest import GREEDY, chunks
from tests.thinking_models import HARMONY, QWEN3, write_script

Run = Callable[..., subprocess.CompletedProcess[str]]

# ---- what is chosen

QWEN = Thinking(True, {"on": {"enable_thinking": True}, "off": {"enable_thinking": False}}, "on")
GPT_OSS = Thinking(True, {level: {"reasoning_effort": level} for level in ("low", "medium", "high")}, "medium")
R1 = Thinking(True, default="on")
NONE = Thinking()
SLOW, FAST = 8.0, 50.0


def test_the_users_word_is_the_templates_variable() -> None:
    """However fast the machine is, and without a word about it."""
    for speed in (SLOW, FAST, None):
        assert choose_thinking("on", QWEN, "qwen", speed).variables == {"enable_thinking": True}
        assert choose_thinking("high", GPT_OSS, "gpt-oss", speed).variables == {"reasoning_effort": "high"}
        assert choose_thinking("on", QWEN, "qwen", speed).notice is None


@pytest.mark.parametrize(
    ("wish", "thinking", "message", "hint"),
    [
        (
            "low",
            QWEN,
            "--think low: the template of m has only enable_thinking",
            "it knows --think on or off",
        ),
        (
            "off",
            GPT_OSS,
            "--think off: the template of m has only reasoning_effort",
            "it knows --think low, medium or high",
        ),
        (
            "off",
            R1,
            "m always thinks: no enable_thinking or reasoning_effort in its template",
            "leave --think out",
        ),
        (
            "on",
            NONE,
            "m does not think: no enable_thinking or reasoning_effort in its template",
            "leave --think out",
        ),
        ("maybe", QWEN, "--think is 'maybe'", "it can be on, off, low, medium or high"),
    ],
)
def test_a_wish_that_the_template_cannot_fulfil_is_refused_by_name(
    wish: str, thinking: Thinking, message: str, hint: str
) -> None:
    """With what is missing, and what to type in its place."""
    with pytest.raises(UsageError) as caught:
        choose_thinking(wish, thinking, "m", FAST)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_slow_machine_does_not_think_unasked() -> None:
    """Off where that can be set, low where only that can, and the note says how long it would have taken."""
    off = choose_thinking(None, QWEN, "qwen", SLOW)
    assert (off.word, off.variables) == ("off", {"enable_thinking": False})
    assert off.notice == "thinking is off: it would take about 1 min 15 s an answer (--think on)"
    low = choose_thinking(None, GPT_OSS, "gpt-oss", SLOW)
    assert (low.word, low.variables) == ("low", {"reasoning_effort": "low"})
    assert low.notice == "thinking is low: more would take about 1 min 15 s an answer (--think medium)"
    always = choose_thinking(None, R1, "r1", SLOW)
    assert (always.word, always.variables) == ("on", {})
    assert always.notice == "this model may think for about 1 min 15 s before an answer"


def test_a_fast_machine_and_one_of_which_nothing_is_known_think_as_the_template_has_it() -> None:
    """From the speed on at which a usual thought takes the patience of people."""
    assert THOUGHT_TOKENS / ENOUGH_SPEED == PATIENCE
    for speed in (ENOUGH_SPEED, FAST, None):
        for thinking in (QWEN, GPT_OSS, R1, NONE):
            choice = choose_thinking(None, thinking, "m", speed)
            assert (choice.word, choice.variables, choice.notice) == (thinking.default, {}, None)


def test_what_need_not_be_thought_over_is_thought_over_as_little_as_can_be() -> None:
    """Off, else low, else what the template does."""
    assert (QWEN.least, GPT_OSS.least, R1.least) == ({"enable_thinking": False}, {"reasoning_effort": "low"}, {})


def test_a_model_that_does_not_think_unasked_needs_no_note() -> None:
    """On no machine."""
    granite = replace(QWEN, default="off")
    assert choose_thinking(None, granite, "granite", SLOW).notice is None
    assert choose_thinking(None, NONE, "guide", SLOW).notice is None


@given(
    st.none() | st.sampled_from(WISHES),
    st.sampled_from([QWEN, GPT_OSS, R1, NONE]),
    st.none() | st.floats(0.1, 1000),
)
def test_what_is_chosen_is_always_one_of_the_templates_choices(
    wish: str | None, thinking: Thinking, speed: float | None
) -> None:
    """Or nothing at all; a wish is fulfilled or refused."""
    try:
        choice = choose_thinking(wish, thinking, "m", speed)
    except UsageError:
        assert wish not in thinking.choices
        return
    assert choice.variables in ({}, thinking.choices.get(choice.word))
    assert wish in (None, choice.word)


# ---- the real engine

THOUGHT = ("<th", "ink", ">\n", "Hm", ", so", ".\n</", "thi", "nk>", "\n\n")
CONTROL_THOUGHT = ("<think>", "Hm", ", so.", "</think>", "\n\n")
ANSWER = ("Yes", ", it", " is.")
HARMONY_TEXT = ("Hm", ", so.", "<|end|>", "<|start|>", "assistant", "<|channel|>", "final", "<|message|>", *ANSWER)
HARMONY_CONTROLS = ("<|end|>", "<|start|>", "<|channel|>", "<|message|>")
ENDS_OF_TURNS = ("<|return|>", "<|call|>")  # with these llama.cpp knows gpt-oss, whose <|end|> ends no turn

Start = Callable[..., Engine]
QUESTION = (Message("user", "Is it?"),)


def ask(engine: Engine, *messages: Message, **options: Any) -> tuple[str, str, list[Chunk], Usage]:
    """Thoughts, answer, and all chunks with the usage."""
    got = chunks(engine, replace(Generate(messages, GREEDY), **options))
    assert got[-1].usage is not None
    thoughts = "".join(chunk.text for chunk in got if chunk.thought)
    return thoughts, "".join(chunk.text for chunk in got if not chunk.thought), got, got[-1].usage


@pytest.mark.parametrize(
    ("template", "script", "controls"),
    [
        (QWEN3, (*THOUGHT, *ANSWER), ()),
        (QWEN3, (*CONTROL_THOUGHT, *ANSWER), ("<think>", "</think>")),
        (HARMONY, HARMONY_TEXT, HARMONY_CONTROLS),
        (HARMONY, HARMONY_TEXT, (*HARMONY_CONTROLS, *ENDS_OF_TURNS)),
    ],
    ids=["text", "control-tokens", "end-of-turn", "gpt-oss"],
)
def test_thoughts_and_answer_come_apart(
    template: str, script: tuple[str, ...], controls: tuple[str, ...], tmp_path: Path, start_engine: Start
) -> None:
    """Whether marks are text over several tokens, control tokens, or what would elsewhere end the turn."""
    engine = start_engine(write_script(tmp_path / "m.gguf", template, script, controls))
    thoughts, answer, got, usage = ask(engine, *QUESTION)
    assert (thoughts, answer, got[-1].finish_reason) == ("Hm, so.", "Yes, it is.", "stop")
    assert usage.completion_tokens == len(script)
    assert usage.thought_tokens == len(script) - len(ANSWER)
    assert all(chunk.text or chunk.finish_reason for chunk in got)


def test_a_prompt_that_closes_the_thought_leaves_none(tmp_path: Path, start_engine: Start) -> None:
    """enable_thinking false."""
    engine = start_engine(write_script(tmp_path / "m.gguf", QWEN3, ANSWER))
    assert engine.info is not None
    assert engine.info.thinking == QWEN
    with_thought = ask(engine, *QUESTION)[3].prompt_tokens
    off = {"enable_thinking": False}
    prompt_tokens = ask(engine, *QUESTION, variables=off)[3].prompt_tokens
    assert prompt_tokens == with_thought + len("<think>\n\n</think>\n\n")
    assert ask(engine, *QUESTION, variables=off)[:2] == ("", "Yes, it is.")


OPENED = QWEN3.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}")
MARKS = ["<think>", "</think>"]


@pytest.mark.parametrize(
    ("template", "script", "controls"),
    [
        (OPENED, ("Hm", ", so.", "</think>", "\n\n", *ANSWER), []),
        (OPENED, ("Hm", ", so.", "</think>", "\n\n", *ANSWER), MARKS),
        (QWEN3, ("<think>", "Hm", ", so.", "</think>", "\n\n", *ANSWER), MARKS),
        (OPENED, ("Hm", ", so."), MARKS),
        (HARMONY, ("Hm", ", so."), HARMONY_CONTROLS),
    ],
    ids=["text", "control-tokens", "not-opened", "never-closed", "never-closed-gpt-oss"],
)
def test_a_grammar_is_the_answers_and_not_the_thoughts(
    template: str, script: tuple[str, ...], controls: list[str], tmp_path: Path, start_engine: Start
) -> None:
    """It holds from where the thought is over; one that the model would end its turn in is ended for it."""
    engine = start_engine(write_script(tmp_path / "m.gguf", template, script, controls))
    grammar = Grammar("gbnf", 'root ::= "Yes" [ab]')
    thoughts, answer, got, _ = ask(engine, *QUESTION, grammar=grammar)
    assert (thoughts, got[-1].finish_reason) == ("Hm, so.", "stop")
    assert answer in ("Yesa", "Yesb")


def test_a_thought_that_the_limit_cuts_off_is_a_thought(tmp_path: Path, start_engine: Start) -> None:
    """And no answer."""
    engine = start_engine(write_script(tmp_path / "m.gguf", QWEN3, (*THOUGHT, *ANSWER)))
    thoughts, answer, got, usage = ask(engine, *QUESTION, max_tokens=5)
    assert (thoughts, answer, got[-1].finish_reason, usage.thought_tokens) == ("Hm, so", "", "length", 5)


def test_stop_strings_end_the_answer_and_not_the_thought(tmp_path: Path, start_engine: Start) -> None:
    """The same text stands in both."""
    engine = start_engine(
        write_script(tmp_path / "m.gguf", QWEN3, ("<think>", "Hm", ", it", ".</think>", *ANSWER[:1], ", i", "t is."))
    )
    assert ask(engine, *QUESTION, stop=(", it",))[:2] == ("Hm, it.", "Yes")


@pytest.mark.parametrize("script", [THOUGHT, CONTROL_THOUGHT], ids=["text", "control-tokens"])
@pytest.mark.parametrize("preserve", [False, True])
def test_the_next_turn_is_answered_as_if_it_were_the_first(
    script: tuple[str, ...], preserve: bool, tmp_path: Path, start_engine: Start
) -> None:
    """Without the thoughts, all before the last answer is still in memory; with them, the answer too."""
    controls = [mark for mark in ("<think>", "</think>") if mark in script]
    path = write_script(tmp_path / "m.gguf", QWEN3, (*script, *ANSWER), controls)
    warm, cold = start_engine(path), start_engine(path)
    variables = {"preserve_reasoning": preserve}
    thoughts, answer, _, first = ask(warm, *QUESTION, variables=variables)
    then = (*QUESTION, Message("assistant", answer, thoughts), Message("user", "Why?"))
    again, fresh = (ask(engine, *then, variables=variables) for engine in (warm, cold))
    assert again[:2] == fresh[:2] == (thoughts, answer)
    kept = first.prompt_tokens
    if preserve:  # the second script leaves out a newline that the template writes
        kept += first.completion_tokens if script is THOUGHT else len(["<think>"])
    assert again[3].cached_tokens == kept
    if not preserve:
        assert again[3].prompt_tokens == fresh[3].prompt_tokens
        assert ask(cold, *QUESTION, Message("assistant", answer), then[-1])[3].prompt_tokens == fresh[3].prompt_tokens


# ---- the program


def test_the_program_thinks_as_it_is_told(llmrun: Run, tmp_path: Path) -> None:
    """Thoughts are no part of the answer, and JSON has them beside it."""
    model = str(write_script(tmp_path / "m.gguf", QWEN3, (*THOUGHT, *ANSWER)))
    plain = llmrun("run", model, "Is it?", "--temp", "0", "--think", "on")
    assert (plain.returncode, plain.stdout) == (0, "Yes, it is.\n")
    done = json.loads(llmrun("run", model, "Is it?", "--temp", "0", "--json").stdout)
    assert (done["thoughts"], done["answer"]) == ("Hm, so.", "Yes, it is.")
    assert done["usage"]["thought_tokens"] == len(THOUGHT)
    off = json.loads(llmrun("run", model, "Is it?", "--temp", "0", "--json", "--think", "off").stdout)
    assert off["usage"]["prompt_tokens"] > done["usage"]["prompt_tokens"]


@pytest.mark.parametrize("command", [("run", "guide", "hello"), ("chat", "guide")])
def test_guide_cannot_be_made_to_think(llmrun: Run, command: tuple[str, ...]) -> None:
    """By name, with exit code 2."""
    done = llmrun(*command, "--think", "on")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "error: guide does not think: no enable_thinking or reasoning_effort in its template",
        "hint: leave --think out",
    ]


def test_a_word_that_is_none_is_refused_before_anything_is_loaded(llmrun: Run) -> None:
    """With those that there are."""
    done = llmrun("run", "guide", "hello", "--think", "hard")
    assert done.returncode == 2
    assert "on, off, low, medium, high" in " ".join(done.stderr.split())


# ---- the library


def test_a_reply_has_thoughts_and_answer_apart(tmp_path: Path) -> None:
    """And the conversation keeps both, for the template to decide."""
    model = write_script(tmp_path / "m.gguf", QWEN3, (*THOUGHT, *ANSWER))
    with llmrun.load(model, temperature=0, think="on") as chat:
        reply = chat.ask("Is it?")
        assert (reply.thoughts, str(reply)) == ("Hm, so.", "Yes, it is.")
        assert chat.messages == (*QUESTION, Message("assistant", "Yes, it is.", "Hm, so."))
        chat.clear()
        on = chat.ask("Is it?").usage
        chat.clear()
        assert chat.ask("Is it?", think="off").usage.prompt_tokens > on.prompt_tokens
        with pytest.raises(UsageError, match="has only enable_thinking"):
            chat.ask("Why?", think="high")
    with pytest.raises(UsageError, match="has only enable_thinking"):
        llmrun.load(model, think="low")
