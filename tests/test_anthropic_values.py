"""Anthropic's API as values: what clients send as an Ask, and answers as their own library reads them."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from llmrun.engine.protocol import Chunk, FinishReason, Grammar, Usage
from llmrun.errors import UsageError
from llmrun.message import Message, Tool, ToolCall, ToolChoice
from llmrun.sampling import SamplingWish
from llmrun.server.anthropic.answer import Writer, message_of
from llmrun.server.anthropic.asking import ask_of
from llmrun.server.anthropic.request import MessageRequest
from llmrun.server.ask import Ask

USAGE = Usage(100, 40, 60, 7, 0.1, 0.2, 1, thought_tokens=3)
PIXELS = b"\x89PNG\r\n\x1a\n"  # what is in the file is looked at by who keeps it
EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def asked(**body: Any) -> Ask:
    """What a body is understood as; images are kept as their bytes in Latin-1."""
    whole = {"model": "guide", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]} | body
    return ask_of(msgspec.json.decode(json.dumps(whole), type=MessageRequest), lambda data: data.decode("latin-1"))


def conversation(*turns: tuple[str, Any], **body: Any) -> tuple[Message, ...]:
    return asked(messages=[{"role": role, "content": content} for role, content in turns], **body).messages


def test_a_question_is_asked_as_it_is() -> None:
    assert asked() == Ask("guide", (Message("user", "hi"),), max_tokens=9)


def test_all_that_is_wished_of_an_answer_is_in_the_ask() -> None:
    wished = asked(
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        stop_sequences=["a", "b"],
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
        metadata={"user_id": "somebody"},
        service_tier="auto",
    )
    assert wished == Ask(
        "guide",
        (Message("user", "hi"),),
        sampling=SamplingWish(temperature=0.5, top_p=0.9, top_k=3),
        max_tokens=9,
        stop=("a", "b"),
        grammar=Grammar("json_schema", '{"type": "object"}'),
        think="on",
    )


@pytest.mark.parametrize(("kind", "word"), [("enabled", "on"), ("disabled", "off"), ("adaptive", None)])
def test_thinking_is_on_off_or_as_the_model_has_it(kind: str, word: str | None) -> None:
    assert asked(thinking={"type": kind}).think == word


def test_an_effort_is_how_much_is_thought_where_thinking_is_on() -> None:
    effort = {"output_config": {"effort": "max"}}
    assert asked(thinking={"type": "enabled"}, **effort).think == "high"
    assert asked(**effort).think is None


@pytest.mark.parametrize("system", ["Be brief.", [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]])
def test_the_system_prompt_comes_first(system: Any) -> None:
    first, second = asked(system=system).messages
    assert (first.role, first.content.split()) == ("system", ["Be", "brief."])
    assert second == Message("user", "hi")


def test_blocks_become_text_and_images() -> None:
    image = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PIXELS).decode()}
    content = [
        {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": image},
        {"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain", "data": "..."}},
    ]
    assert conversation(("user", content)) == (
        Message("user", "What is this?\nNotes\n\n...", images=(PIXELS.decode("latin-1"),)),
    )


def test_calls_and_their_results_are_joined_by_their_ids() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "rain"}]}
    thought = {"type": "thinking", "thinking": "look", "signature": ""}
    assert conversation(
        ("user", "And in Köln?"),
        ("assistant", [thought, {"type": "text", "text": "I look."}, use]),
        ("user", [result, {"type": "text", "text": "Be brief."}]),
    ) == (
        Message("user", "And in Köln?"),
        Message("assistant", "I look.", "look", calls=(ToolCall("toolu_1", "weather", '{"city": "Köln"}'),)),
        Message("tool", "rain", call_id="toolu_1", name="weather"),
        Message("user", "Be brief."),
    )


def test_a_result_that_only_says_that_it_failed_says_so() -> None:
    use = {"type": "tool_use", "id": "1", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "is_error": True}
    assert conversation(("assistant", [use]), ("user", [result]))[-1].content == "error"


def test_tools_are_those_of_the_client() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"name": "weather", "description": "Tells it.", "input_schema": schema}
    assert asked(tools=[tool]).tools == (Tool("weather", "Tells it.", json.dumps(schema)),)
    assert asked(tools=[tool], tool_choice={"type": "none"}).tools == ()


@pytest.mark.parametrize(
    ("wish", "choice"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any"}, ToolChoice(required=True)),
        ({"type": "tool", "name": "weather"}, ToolChoice(required=True, name="weather")),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
    ],
)
def test_a_tool_may_be_demanded(wish: dict[str, Any], choice: ToolChoice) -> None:
    assert asked(tools=[{"name": "weather", "input_schema": {}}], tool_choice=wish).tool_choice == choice


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": blocks}]}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"messages": [{"role": "assistant", "content": "The"}]}, "the last message is the assistant's"),
        (user({"type": "tool_result", "tool_use_id": "x"}), "no tool_use"),
        (user({"type": "tool_use", "id": "x", "name": "y", "input": {}}), "role user"),
        (user({"type": "image", "source": {"type": "url", "url": "http://x/"}}), "nothing is fetched"),
        (user({"type": "image", "source": {"type": "base64", "data": "%"}}), "Base64"),
        (user({"type": "document", "source": {"type": "url", "url": "x"}}), "plain text"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "runs at Anthropic"),
        ({"tool_choice": {"type": "tool"}}, "a name goes with type tool"),
        ({"tool_choice": {"type": "any", "name": "x"}}, "a name goes with type tool"),
        ({"stop_sequences": [""]}, "stop_sequences is empty"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        asked(**body)


@pytest.mark.parametrize("body", [{"max_tokens": 0}, {"messages": []}, {"messages": [{"role": "user"}]}, {"model": 1}])
def test_what_is_no_request_is_none(body: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        asked(**body)


CALL = ToolCall("call_1", "weather", '{"city": "Köln", "days": [1, 2.5, null]}')
CHUNKS = st.lists(
    st.one_of(
        st.builds(Chunk, text=st.text(), thought=st.booleans()),
        st.builds(Chunk, text=st.text(), calls=st.just((CALL,))),
    )
)
REASONS = st.sampled_from(("stop", "length", "context", "cancelled"))


@given(CHUNKS, REASONS, st.sampled_from([None, "###"]), st.booleans())
def test_a_stream_adds_up_to_the_whole_answer(
    chunks: list[Chunk], reason: FinishReason, stopped_by: str | None, late: bool
) -> None:
    """As the client's own library adds it up; late: the client had to wait for the first word."""
    chunks.append(Chunk("", reason, USAGE, stopped_by=stopped_by))
    writer = Writer("msg_1", "guide")
    events = [*writer.wait()] if late else []
    events += [event for chunk in chunks for event in writer.take(chunk)]
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        if event["type"] == "ping":  # as the client's library does before anything else
            continue
        parsed = EVENT.validate_python(event)
        snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
    whole = message_of("msg_1", "guide", chunks)
    AnthropicMessage.model_validate(whole)
    assert _plain(snapshot.to_dict(mode="json")) == _plain(whole)


def _plain(value: Any) -> Any:
    """Without what is null, which the library adds."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {k: _plain(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("last", "stop"),
    [
        (Chunk("", "stop", USAGE), ("end_turn", None)),
        (Chunk("", "stop", USAGE, stopped_by="###"), ("stop_sequence", "###")),
        (Chunk("", "length", USAGE), ("max_tokens", None)),
        (Chunk("", "context", USAGE), ("model_context_window_exceeded", None)),
        (Chunk("", "stop", USAGE, calls=(CALL,)), ("tool_use", None)),
    ],
)
def test_it_is_told_why_an_answer_ended(last: Chunk, stop: tuple[str, str | None]) -> None:
    message = message_of("msg_1", "guide", [last])
    assert (message["stop_reason"], message["stop_sequence"]) == stop


def test_what_was_in_memory_is_read_from_a_cache_and_no_input() -> None:
    assert message_of("msg_1", "guide", [Chunk("", "stop", USAGE)])["usage"] == {
        "input_tokens": 60,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 40,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 3},
    }
