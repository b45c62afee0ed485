"""Tools and thoughts through Anthropic's and Ollama's APIs: their own clients, and a model that thinks and calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import psutil
import pytest

from tests.serving import Server, serving
from tests.tool_models import QWEN3, write_tool_model

CALL = '{"name": "get_weather", "arguments": {"city": "Bonn"}}'
SCRIPT = ["<think>", "\nLook it up.", "\n</think>", "\n\nI look.\n", "<tool_call>", "\n" + CALL, "\n</tool_call>"]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"name": "get_weather", "description": "The weather of a city.", "input_schema": SCHEMA}]
FUNCTIONS: Any = [{"type": "function", "function": {"name": "get_weather", "description": "x", "parameters": SCHEMA}}]
QUESTION: Any = [{"role": "user", "content": "How is the weather in Bonn?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = write_tool_model(tmp_path_factory.mktemp("models") / "caller.gguf", QWEN3, SCRIPT)
    with serving(tmp_path_factory.mktemp("home"), str(path), "--threads", "1", "--ctx", "2048") as running:
        yield running


@pytest.fixture(scope="module")
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def llama(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(server.url) as made:
        yield made


def checked(message: Any) -> Any:
    """The blocks of a message that thinks, says something and calls; returns the call."""
    thought, said, call = message.content
    assert (thought.type, thought.thinking.strip()) == ("thinking", "Look it up.")
    assert (said.type, said.text.strip()) == ("text", "I look.")
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"city": "Bonn"})
    assert message.stop_reason == "tool_use"
    return call


def ask(**more: Any) -> Any:
    wanted = {"model": "caller", "max_tokens": 500, "messages": QUESTION, "tools": TOOLS}
    return wanted | {"extra_body": {"temperature": 0}} | more


def test_anthropics_client_gets_thoughts_text_and_calls(claude: anthropic.Anthropic) -> None:
    checked(claude.messages.create(**ask(thinking={"type": "enabled", "budget_tokens": 1024})))


def test_anthropics_client_gets_them_as_a_stream(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(**ask()) as stream:
        kinds = [event.delta.type for event in stream if event.type == "content_block_delta"]
        message = stream.get_final_message()
    checked(message)
    assert list(dict.fromkeys(kinds)) == ["thinking_delta", "signature_delta", "text_delta", "input_json_delta"]


def test_what_came_of_a_call_is_told_with_the_blocks_as_they_came(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(**ask())
    call = checked(message)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    turns = [*QUESTION, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert claude.messages.create(**ask(messages=turns)).usage.output_tokens > 0


def test_tools_count_as_tokens_too(claude: anthropic.Anthropic) -> None:
    without = claude.messages.count_tokens(model="caller", messages=QUESTION).input_tokens
    counted = claude.messages.count_tokens(model="caller", messages=QUESTION, tools=TOOLS).input_tokens
    usage = claude.messages.create(**ask()).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert counted > without


def test_a_schema_for_the_answer_leaves_the_choice_to_call_a_tool(claude: anthropic.Anthropic) -> None:
    form = {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}}
    message = claude.messages.create(
        **ask(thinking={"type": "disabled"}, extra_body={"output_config": form, "temperature": 0})
    )
    assert [block.type for block in message.content] == ["tool_use"]


def test_tools_whose_schemas_would_be_the_end_of_the_worker_are_refused(server: Server) -> None:
    """They are compiled, as every schema is, in a process of their own."""
    hostile = {"properties": {"city": {"type": "string", "pattern": "^" + "a?" * 5000 + "$"}}, "required": ["city"]}
    large = {"properties": {"city": {"enum": ["x" * 70_000]}}}
    many = {"properties": {"city": {"type": "string", "maxLength": 1001}}}
    pid = worker_of(server)
    for schema, reason in ((hostile, "takes too much"), (large, "at most 64.0 KiB"), (many, "repeats something")):
        tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"} | schema}}
        body = {"messages": QUESTION, "tools": [tool], "tool_choice": "required", "max_tokens": 5}
        status, answer = server.ask("/v1/chat/completions", body)
        assert (status, reason in str(answer)) == (400, True), answer
        assert server.ask("/v1/chat/completions", {"messages": QUESTION, "max_tokens": 5})[0] == 200
    assert worker_of(server) == pid


def worker_of(server: Server) -> set[int]:
    """The process ids of the server's workers."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return {child.pid for child in children if "llmrun.worker" in child.cmdline()}


@pytest.mark.parametrize("stream", [False, True])
def test_ollamas_client_gets_thoughts_text_and_calls(llama: ollama.Client, stream: bool) -> None:
    wanted: dict[str, Any] = {"tools": FUNCTIONS, "options": {"temperature": 0}, "think": True, "stream": stream}
    answer = llama.chat("caller", QUESTION, **wanted)
    messages = [part.message for part in answer] if stream else [answer.message]
    assert "".join(message.thinking or "" for message in messages).strip() == "Look it up."
    assert "".join(message.content or "" for message in messages).strip() == "I look."
    (call,) = [call for message in messages for call in message.tool_calls or ()]
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Bonn"})
    result = {"role": "tool", "tool_name": "get_weather", "content": "rain"}
    turns = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [call.model_dump()]}, result]
    assert llama.chat("caller", turns, tools=FUNCTIONS, options={"temperature": 0}).done_reason == "stop"


def test_ollamas_client_sees_what_the_model_can_do(llama: ollama.Client) -> None:
    loaded = llama.show("caller")
    assert loaded.capabilities == ["completion", "tools", "thinking"]
    assert llama.generate("caller", keep_alive=0).done_reason == "unload"
    assert llama.show("caller").capabilities == loaded.capabilities
