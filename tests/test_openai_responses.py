"""OpenAI's responses: requests and events as values, and the real client against the real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import openai
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent

from llmrun.engine.protocol import Chunk, FinishReason, Grammar, Usage
from llmrun.errors import UsageError
from llmrun.message import Message, Tool, ToolCall, ToolChoice
from llmrun.sampling import SamplingWish
from llmrun.server.answering import Piece
from llmrun.server.ask import Ask
from llmrun.server.families import Problem
from llmrun.server.openai.answer import Head
from llmrun.server.openai.response_answer import ResponseStream, echo_of
from llmrun.server.openai.response_request import ResponseRequest, parse_response
from tests.serving import Server, serving

USAGE = Usage(10, 4, 6, 5, 0.5, 0.25, 3, 2)
HEAD = Head("resp-1", 1700000000, "guide")
CALL = ToolCall("c1", "add", '{"a":1}')
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}


def ask(**body: Any) -> Ask:
    whole = {"input": "hello"} | body
    return parse_response(msgspec.convert(whole, ResponseRequest), lambda data: f"kept:{data.decode()}")


def events_of(chunks: list[Chunk], **body: Any) -> list[dict[str, Any]]:
    stream = ResponseStream(HEAD, echo_of(msgspec.convert({"input": "hello"} | body, ResponseRequest)))
    return [*(event for chunk in chunks for event in stream.format(Piece(0, chunk))), *stream.end()]


def last(reason: FinishReason = "stop") -> Chunk:
    return Chunk("", reason, USAGE)


def test_a_text_is_a_question() -> None:
    assert ask() == Ask("", (Message("user", "hello"),))
    assert ask(instructions="be short").messages == (Message("system", "be short"), Message("user", "hello"))


def test_items_become_messages_with_the_thoughts_and_calls_that_belong_to_them() -> None:
    items = [
        {"role": "developer", "content": "be short"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "add"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a":1}', "status": "completed"},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "done", "annotations": []}]},
    ]
    assert ask(input=items).messages == (
        Message("system", "be short"),
        Message("user", "add"),
        Message("assistant", "", thoughts="hm", calls=(CALL, ToolCall("c2", "add", "{}"))),
        Message("tool", "1", call_id="c1"),
        Message("tool", "2", call_id="c2"),
        Message("assistant", "done"),
    )


def test_every_wish_arrives() -> None:
    schema = {"type": "object"}
    assert ask(
        model="guide",
        temperature=0.5,
        max_output_tokens=7,
        reasoning={"effort": "minimal", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}},
        tools=[TOOL],
        tool_choice={"type": "function", "name": "add"},
        include=["reasoning.encrypted_content"],
        store=True,
    ) == Ask(
        "guide",
        (Message("user", "hello"),),
        sampling=SamplingWish(temperature=0.5),
        max_tokens=7,
        grammar=Grammar("json_schema", '{"type":"object"}'),
        tools=(Tool("add", "", '{"type":"object"}'),),
        tool_choice=ToolChoice(required=True, name="add"),
        think="low",
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"previous_response_id": "resp_1"}, "nothing is kept"),
        ({"conversation": "c"}, "nothing is kept"),
        ({"background": True}, "background"),
        ({"n": 2}, "one answer"),
        ({"text": {"verbosity": "high"}}, "verbosity"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input 0 is of type 'item_reference'"),
        ({"input": [{"type": 7}]}, "input 0 is of type '7'"),
        ({"input": [{"role": "robot", "content": ""}]}, "input 0 is not as it should be"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "nothing is fetched"),
        ({"reasoning": {"effort": "huge"}}, "effort"),
        ({"mirostat": 1}, "mirostat"),
    ],
)
def test_what_cannot_be_is_refused(body: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        ask(**body)


CHUNKS = [Chunk("hm", thought=True), Chunk("Hi"), Chunk(" you"), Chunk("", calls=(CALL,)), last()]
EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)


def test_a_stream_tells_of_every_part_from_its_beginning_to_its_end() -> None:
    made = events_of(CHUNKS, tools=[TOOL], text={"format": {"type": "text"}})
    events = [EVENT.validate_json(json.dumps(event), strict=True) for event in made]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    item = ["output_item.added", "content_part.added", "{}.delta", "{}.done", "content_part.done", "output_item.done"]
    message = [*item[:3], "{}.delta", *item[3:]]
    call = "function_call_arguments"
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress"),
        *(name.format("reasoning_text") for name in item),
        *(name.format("output_text") for name in message),
        *("output_item.added", f"{call}.delta", f"{call}.done", "output_item.done"),
        "completed",
    ]
    thoughts, answer, asked = events[-1].response.output
    assert (thoughts.content[0].text, answer.content[0].text, asked.arguments) == ("hm", "Hi you", '{"a":1}')
    assert events[-1].response.usage.output_tokens_details.reasoning_tokens == 2


@pytest.mark.parametrize("reason", ["length", "context", "cancelled"])
def test_a_response_that_was_cut_off_is_incomplete(reason: FinishReason) -> None:
    made = events_of([Chunk("Hi"), last(reason)])[-1]
    response = Response.model_validate_json(json.dumps(made["response"]), strict=True)
    assert (made["type"], response.status) == ("response.incomplete", "incomplete")
    assert [getattr(item, "status", None) for item in response.output] == ["incomplete"]


def test_an_empty_answer_is_one() -> None:
    response = Response.model_validate(events_of([last()])[-1]["response"])
    assert (response.output_text, len(response.output)) == ("", 1)


def test_a_failure_in_the_middle_is_the_last_event() -> None:
    stream = ResponseStream(HEAD, echo_of(ResponseRequest(input="hello")))
    stream.format(Piece(0, Chunk("Hi")))
    failed = EVENT.validate_json(json.dumps(stream.fail(Problem(500, "the engine died"))), strict=True)
    assert (failed.type, failed.response.status, failed.response.error.message) == (
        "response.failed",
        "failed",
        "the engine died",
    )


@given(st.lists(st.tuples(st.text(), st.booleans())))
def test_the_parts_are_the_whole(parts: list[tuple[str, bool]]) -> None:
    events = events_of([*(Chunk(text, thought=thought) for text, thought in parts), last()])
    response = Response.model_validate(events[-1]["response"])
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert deltas == response.output_text == "".join(text for text, thought in parts if not thought)
    assert [event["item"] for event in events if event["type"].endswith("item.done")] == events[-1]["response"][
        "output"
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


class Fact(pydantic.BaseModel):
    """What an answer is parsed into."""

    bits: int
    exact: bool


def test_the_client_gets_a_response_whole_and_streamed(client: openai.OpenAI) -> None:
    question = "What is a KV cache?"
    whole = client.responses.create(model="guide", input=question, temperature=0)
    assert "keys and values" in whole.output_text
    with client.responses.stream(model="guide", input=question, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == whole.output_text
    assert final.status == "completed"


def test_the_client_parses_a_response(client: openai.OpenAI) -> None:
    made = client.responses.parse(model="guide", input="What is a KV cache?", temperature=0, text_format=Fact)
    assert isinstance(made.output_parsed, Fact)


def test_a_conversation_goes_on_with_what_came_out(client: openai.OpenAI) -> None:
    first = client.responses.create(model="guide", input="What is a KV cache?", temperature=0)
    items: Any = [{"role": "user", "content": "What is a KV cache?"}, *first.output]
    items.append({"role": "user", "content": "What is quantization?"})
    second = client.responses.create(model="guide", input=items, temperature=0)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_is_a_bad_request(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="nothing is kept"):
        client.responses.create(model="guide", input="hello", previous_response_id="resp_1", stream=stream)
