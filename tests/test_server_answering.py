"""server.answering: from an Ask to what the engine is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmrun.engine.protocol import Grammar, ModelInfo
from llmrun.errors import UsageError
from llmrun.message import Message, RawPrompt, Tool, ToolChoice
from llmrun.sampling import MAX_SEED, SamplingWish
from llmrun.server.answering import check_ask, requests_of, thinking_variables
from llmrun.server.ask import Ask
from llmrun.server.limits import MAX_GRAMMAR
from llmrun.thinking import Thinking

HELLO = (Message("user", "hello"),)
SWITCH = Thinking(True, {"on": {"enable_thinking": True}, "off": {"enable_thinking": False}}, "on")
LEVELS = Thinking(True, {word: {"reasoning_effort": word} for word in ("low", "medium", "high")}, "medium")
ALWAYS = Thinking(True, {}, "on")
NEVER = Thinking()


def info(**traits: Any) -> ModelInfo:
    about: dict[str, Any] = {"name": "m", "architecture": "llama", "description": "", "size": 1, "n_params": 1}
    about |= {"n_ctx": 512, "n_ctx_train": 512, "template": "", "notice": None, "sampling": {}, "load_seconds": 0.0}
    return ModelInfo(**(about | {"memory": None} | traits))


def test_each_of_many_answers_has_its_own_seed_and_prompts_come_in_their_order() -> None:
    ask = Ask("", raw=(RawPrompt("a"), RawPrompt("b")), sampling=SamplingWish(seed=MAX_SEED), n=2)
    asked = [(one.raw and one.raw.text, one.sampling.seed) for one in requests_of(ask, info())]
    assert asked == [("a", MAX_SEED), ("a", 0), ("b", MAX_SEED), ("b", 0)]
    assert [one.sampling.seed for one in requests_of(Ask("", HELLO, n=2), info())] == [None, None]


def test_what_the_model_recommends_holds_where_nothing_was_wished() -> None:
    recommending = info(sampling={"general.sampling.temp": 0.3})
    assert [one.sampling.temperature for one in requests_of(Ask("", HELLO), recommending)] == [0.3]


@pytest.mark.parametrize(
    ("wish", "thinking", "variables"),
    [
        (None, SWITCH, {}),
        ("off", SWITCH, {"enable_thinking": False}),
        ("high", SWITCH, {"enable_thinking": True}),
        ("high", LEVELS, {"reasoning_effort": "high"}),
        ("on", LEVELS, {}),
        ("low", ALWAYS, {}),
        ("off", NEVER, {}),
    ],
)
def test_a_wish_for_reasoning_is_fulfilled_by_what_comes_nearest(
    wish: str | None, thinking: Thinking, variables: dict[str, Any]
) -> None:
    assert thinking_variables(wish, thinking, "m") == variables


@pytest.mark.parametrize(
    ("wish", "thinking", "why"),
    [
        ("off", LEVELS, "m always thinks"),
        ("off", ALWAYS, "m always thinks"),
        ("on", NEVER, "m does not think"),
        ("low", NEVER, "m does not think"),
    ],
)
def test_the_contrary_of_a_wish_for_reasoning_is_never_done(wish: str, thinking: Thinking, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        thinking_variables(wish, thinking, "m")


ADD = (Tool("add", "", "{}"),)


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (Ask("", HELLO, n=0), "1 to 128"),
        (Ask("", raw=(RawPrompt("a"),) * 10, n=13), "130 answers"),
        (Ask("", HELLO, max_tokens=0), "at least 1"),
        (Ask(""), "no message"),
        (Ask("", HELLO, grammar=Grammar("json_schema", json.dumps("ä" * MAX_GRAMMAR))), "the schema has .* at most 64"),
        (Ask("", HELLO, tools=ADD, tool_choice=ToolChoice(required=True, name="sub")), "'sub' is to be called"),
        (Ask("", HELLO, tool_choice=ToolChoice(required=True)), "none was given"),
    ],
)
def test_what_no_model_could_do_is_refused_before_one_is_loaded(ask: Ask, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_ask(ask)


@pytest.mark.parametrize(
    ("ask", "trait"),
    [
        (Ask("", (Message("user", "what?", images=("a.png",)),)), {"vision": True}),
        (Ask("", raw=(RawPrompt("a", "b"),)), {"infill": True}),
    ],
)
def test_what_this_model_cannot_do_is_refused(ask: Ask, trait: dict[str, Any]) -> None:
    assert len(requests_of(ask, info(**trait))) == 1
    with pytest.raises(UsageError, match="m "):
        requests_of(ask, info())
