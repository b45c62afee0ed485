"""Answers in OpenAI's shapes, read by the models of its own client, which are strict here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmrun.engine.protocol import Chunk, Drawn, TokenProb, Usage
from llmrun.message import ToolCall
from llmrun.server.answering import Piece
from llmrun.server.openai.answer import Head, Whole
from llmrun.server.openai.chat_answer import ChatShape, ChatStream, format_chat
from llmrun.server.openai.text_answer import TextShape, TextStream, format_text

HEAD = Head("chatcmpl-1", 1700000000, "guide")
USAGE = Usage(10, 4, 6, 5, 0.5, 0.25, 3, 2)
CALLS = (ToolCall("c1", "add", '{"a":1}'), ToolCall("c2", "sub", "{}"))


def drawn(piece: bytes, logprob: float = -0.5) -> Drawn:
    return Drawn(TokenProb(1, piece, logprob), (TokenProb(1, piece, logprob), TokenProb(2, b"x", float("-inf"))))


THOUGHT = Chunk("let me see", thought=True, drawn=(drawn(b"let me see"),))
LAST = Chunk("", "stop", USAGE)
ANSWER = [THOUGHT, Chunk("Hi", drawn=(drawn(b"Hi"),)), Chunk("", drawn=(drawn(b"\xf0\x9f"),)), LAST]
CALLING = [Chunk("wait"), Chunk("", calls=CALLS), LAST]


def strictly(kind: Any, value: dict[str, Any]) -> Any:
    """The value as JSON, read by a model of the client that takes no string for a number."""
    return kind.model_validate_json(json.dumps(value, allow_nan=False), strict=True)


def streamed(chunks: list[Chunk], shape: ChatShape, n: int = 1) -> list[dict[str, Any]]:
    stream = ChatStream(HEAD, shape, n)
    events = [event for index in range(n) for chunk in chunks for event in stream.format(Piece(index, chunk))]
    return [*events, *stream.end()]


def test_an_answer_is_a_chat_completion() -> None:
    made = strictly(ChatCompletion, format_chat(HEAD, [Whole(ANSWER)], ChatShape()))
    (choice,) = made.choices
    assert (choice.message.content, choice.message.reasoning_content) == ("Hi", "let me see")
    assert (choice.finish_reason, choice.logprobs) == ("stop", None)
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (10, 5, 15)
    assert made.usage.prompt_tokens_details.cached_tokens == 4
    assert made.usage.completion_tokens_details.reasoning_tokens == 2
    assert made.timings["predicted_per_second"] == 20
    assert made.timings["prompt_n"] + made.timings["cache_n"] == 10


def test_the_prompt_of_many_answers_counts_once() -> None:
    made = format_chat(HEAD, [Whole(ANSWER), Whole(ANSWER)], ChatShape())
    assert (made["usage"]["prompt_tokens"], made["usage"]["completion_tokens"]) == (10, 10)
    assert "timings" not in made


def test_calls_are_tool_calls() -> None:
    (choice,) = strictly(ChatCompletion, format_chat(HEAD, [Whole(CALLING)], ChatShape())).choices
    assert choice.finish_reason == "tool_calls"
    assert [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [
        ("c1", "add", '{"a":1}'),
        ("c2", "sub", "{}"),
    ]


def test_an_answer_that_only_calls_has_no_content() -> None:
    made = format_chat(HEAD, [Whole([Chunk("", calls=CALLS), LAST])], ChatShape())
    assert made["choices"][0]["message"]["content"] is None


@pytest.mark.parametrize("reason", ["length", "context", "cancelled"])
def test_an_answer_that_was_cut_off_says_so(reason: Any) -> None:
    for chunks in ([Chunk("Hi"), Chunk("", reason, USAGE)], [Chunk("", calls=CALLS), Chunk("", reason, USAGE)]):
        assert format_chat(HEAD, [Whole(chunks)], ChatShape())["choices"][0]["finish_reason"] == "length"
        assert streamed(chunks, ChatShape())[-1]["choices"][0]["finish_reason"] == "length"


def test_log_probabilities_are_of_the_answer_alone_and_have_every_byte() -> None:
    (choice,) = strictly(ChatCompletion, format_chat(HEAD, [Whole(ANSWER)], ChatShape(logprobs=True))).choices
    first, second = choice.logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("Hi", -0.5, [72, 105])
    assert (second.token, second.bytes) == ("\\xf0\\x9f", [0xF0, 0x9F])
    assert [(one.token, one.logprob) for one in first.top_logprobs] == [("Hi", -0.5), ("x", -9999.0)]
    parts = [c["choices"][0]["logprobs"] for c in streamed(ANSWER, ChatShape(logprobs=True))]
    assert [entry["token"] for part in parts if part for entry in part["content"]] == ["Hi", "\\xf0\\x9f"]


def test_a_stream_begins_with_the_role_and_ends_with_the_usage() -> None:
    events = [strictly(ChatCompletionChunk, event) for event in streamed(ANSWER, ChatShape(usage=True))]
    deltas = [event.choices[0].delta for event in events if event.choices]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert [delta.role for delta in deltas[1:]] == [None] * (len(deltas) - 1)
    assert [d.reasoning_content for d in deltas if hasattr(d, "reasoning_content")] == ["let me see"]
    assert [event.choices[0].finish_reason for event in events if event.choices][-1] == "stop"
    assert events[-1].choices == []
    assert events[-1].usage.total_tokens == 15
    assert [event.usage for event in events[:-1]] == [None] * (len(events) - 1)


def test_a_stream_has_a_usage_only_where_it_was_asked_for() -> None:
    assert all("usage" not in event for event in streamed(ANSWER, ChatShape()))


def test_streamed_calls_are_numbered() -> None:
    chunks = [Chunk("", calls=CALLS[:1]), Chunk("", calls=CALLS[1:]), LAST]
    events = [strictly(ChatCompletionChunk, event) for event in streamed(chunks, ChatShape())]
    calls = [call for event in events for call in event.choices[0].delta.tool_calls or ()]
    assert [(call.index, call.id) for call in calls] == [(0, "c1"), (1, "c2")]
    assert events[-1].choices[0].finish_reason == "tool_calls"


@given(st.lists(st.tuples(st.text(), st.booleans())))
def test_a_stream_is_the_whole_answer_in_parts(parts: list[tuple[str, bool]]) -> None:
    chunks = [*(Chunk(text, thought=thought) for text, thought in parts), LAST]
    message = format_chat(HEAD, [Whole(chunks)], ChatShape())["choices"][0]["message"]
    deltas = [event["choices"][0]["delta"] for event in streamed(chunks, ChatShape())]
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == message.get("reasoning_content", "")


def test_a_completion_has_its_own_old_shape() -> None:
    chunks = [Chunk("Hi", drawn=(drawn(b"Hi"),)), Chunk(" you", drawn=(drawn(b" you"),)), LAST]
    made = strictly(Completion, format_text(HEAD, [Whole(chunks)], TextShape(logprobs=True)))
    (choice,) = made.choices
    assert (choice.text, choice.finish_reason) == ("Hi you", "stop")
    assert choice.logprobs.tokens == ["Hi", " you"]
    assert choice.logprobs.token_logprobs == [-0.5, -0.5]
    assert choice.logprobs.text_offset == [0, 2]
    assert choice.logprobs.top_logprobs[0] == {"Hi": -0.5, "x": -9999.0}


def test_many_prompts_are_answered_in_their_order_each_after_its_echo() -> None:
    shape = TextShape(2, echoes=("a", "b"), usage=True)
    wholes = [Whole([Chunk(str(at)), LAST]) for at in range(4)]
    made = strictly(Completion, format_text(HEAD, wholes, shape))
    assert [(choice.index, choice.text) for choice in made.choices] == [(0, "a0"), (1, "a1"), (2, "b2"), (3, "b3")]
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (20, 20)
    stream = TextStream(HEAD, shape)
    events = [e for at, whole in enumerate(wholes) for chunk in whole.chunks for e in stream.format(Piece(at, chunk))]
    texts = ["".join(e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == at) for at in range(4)]
    assert texts == ["a0", "a1", "b2", "b3"]
    (end,) = stream.end()
    assert (end["choices"], end["usage"]) == ([], made.usage.model_dump(exclude_none=True))
