"""Thoughts and tools through OpenAI's API: the real client, the real server, models that have one thing to say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.serving import serving
from tests.thinking_models import QWEN3, write_script
from tests.tool_models import QWEN25, write_tool_model

THOUGHT = ["<think>", "Hm", ", so.", "</think>", "\n\n", "It ", "fits."]
CALLS = ["I look.", "<tool_call>", '{"name": "get_weather", "arguments": {"city": "Bonn"}}', "</tool_call>"]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
QUESTION: Any = [{"role": "user", "content": "What is the weather in Bonn?"}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("models")
    thinks = write_script(folder / "thinks.gguf", QWEN3, THOUGHT, ("<think>", "</think>"))
    calls = write_tool_model(folder / "calls.gguf", QWEN25, CALLS)
    with (
        serving(tmp_path_factory.mktemp("home"), str(thinks), str(calls), "--threads", "1") as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def thinks(client: openai.OpenAI) -> str:
    return next(model.id for model in client.models.list() if "thinks" in model.id)


@pytest.fixture(scope="module")
def calls(client: openai.OpenAI) -> str:
    return next(model.id for model in client.models.list() if "calls" in model.id)


def test_thoughts_come_beside_the_answer(client: openai.OpenAI, thinks: str) -> None:
    made = client.chat.completions.create(model=thinks, messages=QUESTION, temperature=0)
    message: Any = made.choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm, so.", "It fits.")
    assert made.usage is not None
    assert made.usage.completion_tokens_details is not None
    assert made.usage.completion_tokens_details.reasoning_tokens == 5  # the marks and the blank line too
    deltas: list[Any] = [
        chunk.choices[0].delta
        for chunk in client.chat.completions.create(model=thinks, messages=QUESTION, temperature=0, stream=True)
    ]
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "Hm, so."
    assert "".join(delta.content or "" for delta in deltas) == "It fits."


def test_log_probabilities_are_not_of_the_thoughts(client: openai.OpenAI, thinks: str) -> None:
    for stream in (False, True):
        made: Any = client.chat.completions.create(
            model=thinks, messages=QUESTION, temperature=0, logprobs=True, stream=stream
        )
        parts = [chunk.choices[0].logprobs for chunk in made] if stream else [made.choices[0].logprobs]
        tokens = [entry.token for part in parts if part is not None for entry in part.content]
        assert tokens == ["It ", "fits."]


def test_thinking_is_turned_off_by_either_name(client: openai.OpenAI, thinks: str) -> None:
    """The template then closes a thought in the prompt, which is longer by it."""

    def prompt_tokens(**wishes: Any) -> int:
        made = client.chat.completions.create(model=thinks, messages=QUESTION, max_tokens=1, **wishes)
        return int(made.usage.prompt_tokens)

    off = prompt_tokens(reasoning_effort="none")
    assert off > prompt_tokens()
    assert prompt_tokens(extra_body={"chat_template_kwargs": {"enable_thinking": False}}) == off


def test_a_call_of_a_tool_comes_and_its_result_goes_back(client: openai.OpenAI, calls: str) -> None:
    made = client.chat.completions.create(model=calls, messages=QUESTION, tools=TOOLS, temperature=0)
    (choice,) = made.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Bonn"})
    history: Any = [*QUESTION, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    answer = client.chat.completions.create(model=calls, messages=history, tools=TOOLS, temperature=0)
    assert answer.usage is not None
    assert made.usage is not None
    assert answer.usage.prompt_tokens > made.usage.prompt_tokens


def test_a_call_is_streamed(client: openai.OpenAI, calls: str) -> None:
    with client.chat.completions.stream(model=calls, messages=QUESTION, tools=TOOLS, temperature=0) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert (final.choices[0].finish_reason, call.function.name) == ("tool_calls", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Bonn"}


def test_a_tool_that_must_be_called_is(client: openai.OpenAI, calls: str) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        wanted: Any = choice
        made = client.chat.completions.create(
            model=calls, messages=QUESTION, tools=TOOLS, tool_choice=wanted, temperature=0, max_tokens=200
        )
        (call,) = made.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "get_weather"
    missing: Any = {"type": "function", "function": {"name": "missing"}}
    with pytest.raises(openai.BadRequestError, match="none of those"):
        client.chat.completions.create(model=calls, messages=QUESTION, tools=TOOLS, tool_choice=missing)


def test_without_tools_there_is_no_call(client: openai.OpenAI, calls: str) -> None:
    made = client.chat.completions.create(
        model=calls, messages=QUESTION, tools=TOOLS, tool_choice="none", temperature=0
    )
    assert (made.choices[0].message.tool_calls, made.choices[0].finish_reason) == (None, "stop")


def test_responses_have_thoughts_and_calls_as_items(client: openai.OpenAI, thinks: str, calls: str) -> None:
    thought = client.responses.create(model=thinks, input="does it fit?", temperature=0)
    assert [item.type for item in thought.output] == ["reasoning", "message"]
    tool: Any = {"type": "function", **TOOLS[0]["function"]}
    with client.responses.stream(model=calls, input="What is the weather?", tools=[tool], temperature=0) as stream:
        kinds = [event.type for event in stream]
        asked = stream.get_final_response()
    assert [item.type for item in asked.output] == ["message", "function_call"]
    assert "response.function_call_arguments.done" in kinds
    items: Any = [{"role": "user", "content": "What is the weather?"}, *asked.output]
    items.append({"type": "function_call_output", "call_id": asked.output[-1].to_dict()["call_id"], "output": "rain"})
    client.responses.create(model=calls, input=items, tools=[tool], temperature=0)
