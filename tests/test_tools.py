"""Tools from a request to the calls: real chat templates, the real engine, models that write one thing or anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate, Grammar
from llmrun.engine.shared import SharedEngine
from llmrun.errors import UsageError
from llmrun.message import Message, Tool, ToolCall, ToolChoice
from llmrun.sampling import Sampling
from scripts.synthetic import FIRST_FILLER, TINY, write_model
from tests.conftest import ONE_THREAD
from tests.tool_models import (
    CLOCK,
    CODER,
    HERMES3,
    LLAMA31,
    NEMO,
    QWEN3,
    QWEN25,
    SMALL,
    WEATHER,
    template_of,
    write_tool_model,
)

GREEDY = Sampling(temperature=0)
QUESTION = (Message("user", "How is the weather?"),)
SETTINGS = replace(ONE_THREAD, n_ctx=4096)
MISTRAL_CONTROLS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
SCHEMA = json.loads(WEATHER.parameters)


@pytest.fixture
def load(start_engine: Callable[..., Engine]) -> Callable[[Path], Engine]:
    """A function that loads a model with room for long prompts."""
    return lambda path: start_engine(path, SETTINGS)


def ask(engine: Engine, **options: object) -> list[Chunk]:
    """The chunks of an answer, with two tools."""
    request = Generate(QUESTION, GREEDY, 200, tools=(WEATHER, CLOCK))
    answer = engine.answer(replace(request, **options))  # type: ignore[arg-type]
    return [event for event in answer if isinstance(event, Chunk)]


def calls_of(chunks: Sequence[Chunk]) -> list[ToolCall]:
    return [call for chunk in chunks for call in chunk.calls]


def text_of(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks if not chunk.thought)


SCRIPTS: dict[str, tuple[str, list[str], tuple[str, ...]]] = {
    QWEN25: (
        "hermes",
        ["I look.\n", "<tool_call>", '\n{"name": "get_', 'weather", "arguments": ', '{"city": "Bonn"}}'],
        (),
    ),
    HERMES3: (
        "hermes",
        ["I look.\n", "<tool_call>", '{"name": "get_weather", "arguments": {"city": "Bonn"}}', "</to", "ol_call>"],
        (),
    ),
    CODER: (
        "qwen-xml",
        [
            "I look.",
            "\n<tool",
            "_call>\n<function=get_weather>",
            "<parameter=city>\nBonn",
            "\n</parameter>",
            "</function>",
        ],
        (),
    ),
    NEMO: (
        "mistral",
        ["I look.", "[TOOL_CALLS]", '[{"name": "get_weather"', ', "arguments": {"city": "Bonn"}', "}]"],
        MISTRAL_CONTROLS,
    ),
    SMALL: ("mistral", ["I look.", "[TOOL_CALLS]", "get_", "weather", "[ARGS]", '{"city": "Bonn"}'], MISTRAL_CONTROLS),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_model_asks_for_a_tool_in_its_own_format(name: str, tmp_path: Path, load: Callable[[Path], Engine]) -> None:
    wanted, script, controls = SCRIPTS[name]
    engine = load(write_tool_model(tmp_path / "model.gguf", name, script, controls))
    assert engine.info is not None
    assert engine.info.tools == wanted
    chunks = ask(engine)
    assert text_of(chunks) == "I look."
    [call] = calls_of(chunks)
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Bonn"})
    assert chunks[-1].finish_reason == "stop"


def test_llama_writes_a_call_in_the_place_of_an_answer(tmp_path: Path, load: Callable[[Path], Engine]) -> None:
    script = ["<|python_tag|>", '{"name": "get_weather", ', '"parameters": {"city": ', '"Bonn"}}']
    engine = load(write_tool_model(tmp_path / "model.gguf", LLAMA31, script, ("<|python_tag|>", "<|eom_id|>")))
    assert engine.info is not None
    assert engine.info.tools == "llama3"
    chunks = ask(engine)
    assert [(call.name, call.arguments) for call in calls_of(chunks)] == [("get_weather", '{"city": "Bonn"}')]
    assert text_of(chunks) == ""
    # without tools it is what was written, and the control token is nothing
    assert text_of(ask(engine, tools=())) == '{"name": "get_weather", "parameters": {"city": "Bonn"}}'


def test_thoughts_come_before_a_call_and_hold_none(tmp_path: Path, load: Callable[[Path], Engine]) -> None:
    script = [
        "<think>",
        "They say <tool_call>",
        "</think>",
        "\n\n<tool_call>",
        '{"name": "get_time"',
        ', "arguments": {}}',
    ]
    engine = load(write_tool_model(tmp_path / "model.gguf", QWEN3, script))
    chunks = ask(engine)
    assert "".join(chunk.text for chunk in chunks if chunk.thought) == "They say <tool_call>"
    assert [call.name for call in calls_of(chunks)] == ["get_time"]
    assert text_of(chunks) == ""


def test_stop_strings_are_looked_for_in_text_and_not_in_calls(tmp_path: Path, load: Callable[[Path], Engine]) -> None:
    script = [
        "I look.",
        "<tool_call>",
        '{"name": "get_weather", "arguments": {"city": "Bonn"}}',
        "</tool_call>",
        "Bonn!",
    ]
    engine = load(write_tool_model(tmp_path / "model.gguf", QWEN25, script))
    chunks = ask(engine, stop=("Bonn",))
    assert len(calls_of(chunks)) == 1
    assert text_of(chunks) == "I look.\n\n"


def test_nothing_is_written_behind_a_call_that_is_to_be_the_only_one(
    tmp_path: Path, load: Callable[[Path], Engine]
) -> None:
    script = ["<tool_call>", '{"name": "get_time"}', "</tool_call>", '<tool_call>{"name": "get_weather"}', "and more"]
    engine = load(write_tool_model(tmp_path / "model.gguf", QWEN25, script))
    assert [call.name for call in calls_of(ask(engine))] == ["get_time", "get_weather"]
    chunks = ask(engine, tool_choice=ToolChoice(parallel=False))
    assert [call.name for call in calls_of(chunks)] == ["get_time"]
    assert (text_of(chunks), chunks[-1].finish_reason) == ("", "stop")
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


def test_a_call_that_is_cut_off_is_text(tmp_path: Path, load: Callable[[Path], Engine]) -> None:
    script = ["<tool_call>", '{"name": "get_time"', ', "arguments": {}}']
    engine = load(write_tool_model(tmp_path / "model.gguf", QWEN25, script))
    chunks = ask(engine, max_tokens=2)
    assert (text_of(chunks), chunks[-1].finish_reason) == ('<tool_call>{"name": "get_time"', "length")


def test_a_model_whose_format_is_not_known_is_refused_with_the_reason(guide: Engine) -> None:
    assert guide.info is not None
    assert guide.info.tools is None
    with pytest.raises(UsageError, match="no way to call tools"):
        ask(guide)
    assert text_of(ask(guide, tools=(), max_tokens=5))  # and is asked something else


@pytest.mark.parametrize(
    ("tools", "choice", "words"),
    [
        ((replace(WEATHER, name="get weather"),), ToolChoice(), "no name for a tool"),
        ((replace(WEATHER, name=""),), ToolChoice(), "no name for a tool"),
        ((WEATHER, WEATHER), ToolChoice(), "two tools"),
        ((replace(WEATHER, parameters="{"),), ToolChoice(), "no JSON"),
        ((replace(WEATHER, parameters="[]"),), ToolChoice(), "no JSON object"),
        ((replace(WEATHER, parameters=f'{{"a": {"[" * 500}{"]" * 500}}}'),), ToolChoice(), "more than 100 deep"),
        ((WEATHER,), ToolChoice(name="get_time"), "'get_time' must be called and is not there"),
    ],
)
def test_what_is_no_tool_is_refused_with_the_reason(
    tools: tuple[Tool, ...], choice: ToolChoice, words: str, anything: Callable[[str], Engine]
) -> None:
    with pytest.raises(UsageError, match=words):
        ask(anything(QWEN25), tools=tools, tool_choice=choice)


def test_arguments_of_earlier_calls_must_be_json(anything: Callable[[str], Engine]) -> None:
    messages = (*QUESTION, Message("assistant", "", calls=(ToolCall("1", "get_time", "{"),)), Message("tool", "12"))
    with pytest.raises(UsageError, match="arguments of the call of 'get_time'"):
        ask(anything(QWEN25), messages=messages)


def test_a_model_may_think_before_the_call_that_it_must_make(tmp_path: Path, load: Callable[[Path], Engine]) -> None:
    call = ["\n\n", "<tool_call>", '\n{"name": "get_time", ', '"arguments": {}}', "\n</tool_call>"]
    script, marks = ["<think>", "Hm, {so", "</think>", *call], ("<think>", "</think>")
    engine = load(write_tool_model(tmp_path / "model.gguf", QWEN3, script, marks))
    chunks = ask(engine, tool_choice=ToolChoice(name="get_time"))
    assert "".join(chunk.text for chunk in chunks if chunk.thought) == "Hm, {so"
    assert [call.name for call in calls_of(chunks)] == ["get_time"]
    assert (text_of(chunks), chunks[-1].finish_reason) == ("", "stop")


def test_many_at_once_have_each_their_own_calls(tmp_path: Path) -> None:
    script = ["I look.", "[TOOL_CALLS]", '[{"name": "get_weather"', ', "arguments": {"city": "Bonn"}', "}]"]
    path = write_tool_model(tmp_path / "model.gguf", NEMO, script, MISTRAL_CONTROLS)
    engine = Engine()
    engine.load(path, replace(SETTINGS, n_ctx=3 * 4096, n_seq_max=3, n_outputs_max=3))
    request = Generate(QUESTION, GREEDY, 50)

    async def answers() -> Sequence[list[Chunk]]:
        shared = SharedEngine(engine)

        async def one(tools: tuple[Tool, ...]) -> list[Chunk]:
            answer = shared.answer(replace(request, tools=tools))
            return [event async for event in answer if isinstance(event, Chunk)]

        try:
            return await asyncio.gather(one((WEATHER,)), one(()), one((WEATHER, CLOCK)))
        finally:
            await shared.close()

    first, plain, last = asyncio.run(answers())
    for chunks in (first, last):
        assert [call.arguments for call in calls_of(chunks)] == ['{"city": "Bonn"}']
        assert text_of(chunks) == "I look."
    assert calls_of(plain) == []
    assert text_of(plain) == 'I look.[{"name": "get_weather", "arguments": {"city": "Bonn"}}]'


# ---- what must be called: random weights, which write anything that they may

# Templates of each way to write a call, and whether its marks are control tokens
STYLES = {QWEN25: (), LLAMA31: ("<|python_tag|>",), NEMO: MISTRAL_CONTROLS, SMALL: MISTRAL_CONTROLS, CODER: ()}
RICH = Tool(
    "plan_trip",
    "",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "to": {"$ref": "#/$defs/place"},
                "kind": {"type": "string", "enum": ["bus", "train </parameter>"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "back": {"type": "boolean"},
                "via/all": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
                "code": {"type": "string", "pattern": "^[a-z]{3}$"},
            },
            "required": ["to", "days"],
            "$defs": {
                "place": {
                    "type": "object",
                    "properties": {"name": {"type": "string", "maxLength": 4}},
                    "required": ["name"],
                    "additionalProperties": False,
                }
            },
        }
    ),
)


@pytest.fixture(scope="module")
def anything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Engine]]:
    """A function that loads a model of random weights with the template of another; each is loaded once."""
    engines: dict[str, Engine] = {}

    def start(name: str) -> Engine:
        if name not in engines:
            path = tmp_path_factory.mktemp("models") / "anything.gguf"
            controls = dict(enumerate(STYLES[name], FIRST_FILLER))
            write_model(path, replace(TINY, tied=False), template=template_of(name), controls=controls)
            engines[name] = Engine()
            engines[name].load(path, SETTINGS)
        return engines[name]

    yield start
    for engine in engines.values():
        engine.close()


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("seed", range(3))
def test_a_tool_that_must_be_called_is_called_as_its_schema_says(
    name: str, seed: int, anything: Callable[[str], Engine]
) -> None:
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
    choice = ToolChoice(required=True, parallel=False)
    chunks = ask(anything(name), tools=(RICH, CLOCK), tool_choice=choice, sampling=sampling, max_tokens=2000)
    [call] = calls_of(chunks)
    assert (text_of(chunks), chunks[-1].finish_reason) == ("", "stop")
    schema: dict[str, Any] = {"type": "object", "maxProperties": 0}
    if call.name == "plan_trip":
        schema = json.loads(RICH.parameters)
    if name == CODER and call.name == "plan_trip":
        schema["properties"]["code"] = {"type": "string"}  # text without quotation marks is held to no pattern
    jsonschema.validate(json.loads(call.arguments), schema)


@pytest.mark.parametrize("name", STYLES)
def test_the_tool_that_was_named_is_called(name: str, anything: Callable[[str], Engine]) -> None:
    chunks = ask(anything(name), tool_choice=ToolChoice(name="get_time"))
    assert calls_of(chunks)[0].name == "get_time"
    assert calls_of(chunks)[0].arguments == "{}"
    assert text_of(chunks) == "" or chunks[-1].finish_reason == "length"


@pytest.mark.parametrize("name", STYLES)
def test_an_answer_with_a_schema_is_that_or_a_call(name: str, anything: Callable[[str], Engine]) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    chunks = ask(anything(name), grammar=Grammar("json_schema", json.dumps(schema)), max_tokens=2000)
    if calls_of(chunks):
        assert text_of(chunks) == ""
    else:
        jsonschema.validate(json.loads(text_of(chunks)), schema)


def test_a_schema_that_no_grammar_keeps_to_leaves_an_object(anything: Callable[[str], Engine]) -> None:
    odd = replace(WEATHER, parameters='{"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]}')
    sampling = Sampling(temperature=1.0, seed=1)
    choice = ToolChoice(required=True, parallel=False)
    chunks = ask(anything(QWEN25), tools=(odd,), tool_choice=choice, sampling=sampling, max_tokens=2000)
    if chunks[-1].finish_reason == "stop":
        assert isinstance(json.loads(calls_of(chunks)[0].arguments), dict)


def test_tools_count_among_the_tokens(anything: Callable[[str], Engine]) -> None:
    engine = anything(QWEN25)
    alone, with_tools = engine.count(QUESTION), engine.count(QUESTION, (WEATHER, CLOCK))
    usage = ask(engine, max_tokens=1)[-1].usage
    assert usage is not None
    assert alone.total < with_tools.total == usage.prompt_tokens
    assert alone.messages == with_tools.messages
