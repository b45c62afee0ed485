"""Ollama's API as values: what clients send as an Ask, and answers as their own library reads them."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.engine.protocol import Chunk, Drawn, FinishReason, Grammar, TokenProb, Usage
from llmrun.errors import UsageError
from llmrun.gguf.header import Entry, SkippedArray, ValueType
from llmrun.gguf.source import read_model_header
from llmrun.message import Message, RawPrompt, Tool, ToolCall
from llmrun.sampling import Penalties, SamplingWish
from llmrun.server.ask import Ask
from llmrun.server.ollama.answer import Shape, Times, empty, ended, line_of, whole_of
from llmrun.server.ollama.asking import ask_of_chat, ask_of_text, is_empty, keep_alive_of
from llmrun.server.ollama.describing import capabilities_of, digest_of, info_of, shown_name
from llmrun.server.ollama.request import ChatRequest, GenerateRequest

NOW = datetime(2026, 11, 26, 1, 2, 3, 456789, tzinfo=UTC)
USAGE = Usage(100, 40, 60, 7, 0.25, 0.5, 1)
TIMES = Times(total=1_000_000_000, load=2_000_000)
PIXELS = b"\x89PNG\r\n\x1a\n"
CHAT, TEXT = Shape("guide:latest", "chat"), Shape("guide:latest", "generate")


def kept(data: bytes) -> str:
    """An image's bytes in the place of its file's path."""
    return data.decode("latin-1")


def parsed(body: dict[str, Any], kind: Any) -> Any:
    return msgspec.json.decode(json.dumps({"model": "guide"} | body), type=kind)


def chat(**body: Any) -> Ask:
    whole = {"messages": [{"role": "user", "content": "hi"}]} | body
    return ask_of_chat(parsed(whole, ChatRequest), kept)


def text(**body: Any) -> Ask:
    return ask_of_text(parsed(body, GenerateRequest), kept)


def turns(*messages: dict[str, Any]) -> tuple[Message, ...]:
    return chat(messages=messages).messages


def test_a_question_is_asked_as_it_is() -> None:
    assert chat() == Ask("guide", (Message("user", "hi"),))
    assert text(prompt="hi") == chat()
    assert text(prompt="hi", system="Be brief.").messages == (Message("system", "Be brief."), Message("user", "hi"))


def test_all_that_is_wished_of_an_answer_is_in_the_ask() -> None:
    options = {
        "temperature": 0,
        "top_k": 40.0,
        "top_p": 0.5,
        "min_p": 0.1,
        "seed": 7,
        "num_predict": 9,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -1,
        "stop": ["a", ""],
    }
    wished = chat(options=options, think="low", format="json", keep_alive="1h30m", logprobs=True, top_logprobs=2)
    assert wished == Ask(
        "guide",
        (Message("user", "hi"),),
        sampling=SamplingWish(0, 40, 0.5, 0.1, 1.1, 7),
        penalties=Penalties(-1, 0.5),
        max_tokens=9,
        stop=("a",),
        grammar=Grammar("json_schema", '{"type": "object"}'),
        think="low",
        logprobs=2,
        keep_alive=5400,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"num_ctx": 131072, "num_gpu": 99, "num_thread": 4, "num_batch": 512, "use_mmap": True, "main_gpu": 0},
        {"num_keep": 4, "repeat_last_n": 64, "penalize_newline": True, "something_new": {}},
        {"mirostat": 0, "typical_p": 1.0, "tfs_z": 1, "presence_penalty": 0, "frequency_penalty": 0},
        {"seed": -1, "num_predict": -1},
        {"num_predict": -2, "stop": [], "temperature": None},
        None,
    ],
)
def test_what_changes_no_answer_here_is_passed_over(options: Any) -> None:
    """The context is what the plan made it; a prompt that is too long for it is refused, and never cut."""
    assert chat(options=options, think=None, format="", keep_alive=None, logprobs=False) == chat()


@pytest.mark.parametrize(("think", "word"), [(True, "on"), (False, "off"), ("high", "high"), (None, None)])
def test_thinking_is_switched_or_graded(think: Any, word: str | None) -> None:
    assert chat(think=think).think == word


@pytest.mark.parametrize(("wish", "seconds"), [(300, 300), (1.5, 1.5), ("5m", 300), ("0", 0), (0, 0), (None, None)])
def test_a_model_is_kept_for_as_long_as_is_wished(wish: Any, seconds: float | None) -> None:
    assert keep_alive_of(wish) == seconds


@pytest.mark.parametrize("wish", [-1, "-1m", "-1"])
def test_a_model_may_be_kept_for_ever(wish: Any) -> None:
    assert (seconds := keep_alive_of(wish)) is not None
    assert seconds < 0 or seconds == math.inf


def test_a_schema_is_a_grammar() -> None:
    schema = {"type": "object", "properties": {"ü": {"type": "integer"}}}
    assert chat(format=schema).grammar == Grammar("json_schema", json.dumps(schema, ensure_ascii=False))


def test_raw_prompts_and_gaps_have_no_template() -> None:
    assert text(prompt="def f(", raw=True).raw == (RawPrompt("def f("),)
    assert text(prompt="def f(", suffix="return 1").raw == (RawPrompt("def f(", "return 1"),)


def test_images_go_with_their_message() -> None:
    image = base64.b64encode(PIXELS).decode()
    assert turns({"role": "user", "content": "What is this?", "images": [image]})[0].images == (kept(PIXELS),)
    assert text(prompt="What is this?", images=[image]).messages[0].images == (kept(PIXELS),)


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": {"city": name}}, **more}


def test_results_are_joined_to_calls_by_the_tools_name_or_their_order() -> None:
    wanted = [call("a"), call("b", id="x"), call("a")]
    asked = {"role": "assistant", "content": "", "thinking": "look", "tool_calls": wanted}
    results = [
        {"role": "tool", "content": "1", "tool_name": "b"},
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "3", "tool_name": "a"},
    ]
    assistant, *tools = turns(asked, *results)
    ids = ("call_0_0", "x", "call_0_2")
    calls = [ToolCall(id_, name, f'{{"city": "{name}"}}') for id_, name in zip(ids, "aba", strict=True)]
    assert assistant == Message("assistant", "", "look", calls=tuple(calls))
    assert [(message.call_id, message.name) for message in tools] == [("x", "b"), ("call_0_0", "a"), ("call_0_2", "a")]


def test_tools_are_wrapped_as_openais() -> None:
    function = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}}
    assert chat(tools=[{"type": "function", "function": function}]).tools == (
        Tool("weather", "Tells it.", '{"type": "object"}'),
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"messages": [{"role": "robot", "content": "hi"}]}, "'robot'"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "the result of no call"),
        ({"messages": [{"role": "user", "images": ["%"]}]}, "Base64"),
        ({"options": {"mirostat": 2}}, "mirostat is 2"),
        ({"options": {"top_k": 1.5}}, "top_k is 1.5"),
        ({"options": {"repeat_penalty": 1.1, "repeat_last_n": -1}}, "repeat_last_n is -1"),
        ({"format": "yaml"}, "'yaml'"),
        ({"think": "hard"}, "'hard'"),
        ({"keep_alive": "soon"}, "'soon'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        chat(**body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"template": "{{ .Prompt }}"}, "template is there"),
        ({"context": [1, 2]}, "context is there"),
        ({"raw": True, "system": "Be brief."}, "raw is there with system"),
        ({"suffix": "x", "images": ["x"]}, "suffix is there with system or images"),
    ],
)
def test_what_needs_a_template_of_ones_own_is_refused(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        text(prompt="hi", **body)


def test_without_anything_to_answer_nothing_is_asked() -> None:
    assert is_empty(parsed({"messages": []}, ChatRequest))
    assert is_empty(parsed({"prompt": ""}, GenerateRequest))
    assert not is_empty(parsed({"suffix": "x"}, GenerateRequest))


CALL = ToolCall("call_1", "weather", '{"city": "Köln"}')
REASONS = st.sampled_from(("stop", "length", "context", "cancelled"))
CHUNKS = st.lists(
    st.one_of(
        st.builds(Chunk, text=st.text(), thought=st.booleans()),
        st.builds(Chunk, text=st.text(), calls=st.just((CALL,))),
    )
)


@given(CHUNKS, REASONS, st.sampled_from([CHAT, TEXT]))
def test_the_lines_of_a_stream_add_up_to_the_whole_answer(
    chunks: list[Chunk], reason: FinishReason, shape: Shape
) -> None:
    chunks.append(Chunk("end", reason, USAGE))
    lines = [_read(shape, line_of(shape, chunk, NOW)) for chunk in chunks]
    last = _read(shape, ended(line_of(shape, chunks[-1], NOW), chunks[-1], TIMES))
    whole = _read(shape, ended(whole_of(shape, chunks, NOW), chunks[-1], TIMES))
    assert (last.done, [line.done for line in lines]) == (True, [False] * len(chunks))
    said, thought = zip(*map(_texts, lines), strict=True)
    assert _texts(whole) == ("".join(said), "".join(thought))
    assert (whole.done_reason, whole.eval_count) == (last.done_reason, 7)


def _read(shape: Shape, line: dict[str, Any]) -> Any:
    """A line as Ollama's own library reads it."""
    fields = json.loads(msgspec.json.encode(line))
    return ollama.ChatResponse(**fields) if shape.kind == "chat" else ollama.GenerateResponse(**fields)


def _texts(line: Any) -> tuple[str, str]:
    if isinstance(line, ollama.ChatResponse):
        return line.message.content or "", line.message.thinking or ""
    return line.response, line.thinking or ""


def test_the_last_line_tells_what_the_answer_took() -> None:
    last = Chunk("", "context", USAGE)
    assert ended(line_of(CHAT, last, NOW), last, TIMES) == {
        "model": "guide:latest",
        "created_at": "2026-11-26T01:02:03.456789Z",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "length",
        "total_duration": 1_000_000_000,
        "load_duration": 2_000_000,
        "prompt_eval_count": 100,
        "prompt_eval_duration": 250_000_000,
        "eval_count": 7,
        "eval_duration": 500_000_000,
    }


def test_calls_are_told_with_their_arguments_as_objects() -> None:
    line = line_of(CHAT, Chunk("", calls=(CALL, CALL)), NOW)
    assert line["message"]["tool_calls"] == [
        {"id": "call_1", "function": {"index": index, "name": "weather", "arguments": {"city": "Köln"}}}
        for index in (0, 1)
    ]
    assert ollama.ChatResponse(**line).message.tool_calls is not None


def test_tokens_are_told_with_their_probabilities() -> None:
    half = TokenProb(1, b"\xf0\x9f", -0.5)
    chunk = Chunk("x", drawn=(Drawn(half, (half, TokenProb(2, b"b", -math.inf))),))
    for line in (line_of(TEXT, chunk, NOW), whole_of(TEXT, [chunk], NOW)):
        assert line["logprobs"] == [
            {
                "token": "\\xf0\\x9f",
                "logprob": -0.5,
                "bytes": [0xF0, 0x9F],
                "top_logprobs": [
                    {"token": "\\xf0\\x9f", "logprob": -0.5, "bytes": [0xF0, 0x9F]},
                    {"token": "b", "logprob": -9999.0, "bytes": [98]},
                ],
            }
        ]


def test_loading_is_answered_with_nothing() -> None:
    assert empty(TEXT, NOW, "load") == {
        "model": "guide:latest",
        "created_at": "2026-11-26T01:02:03.456789Z",
        "response": "",
        "done": True,
        "done_reason": "load",
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [("guide", "guide:latest"), ("qwen3:8b", "qwen3:8b"), ("a/b", "a/b:latest"), ("host:80/a", "host:80/a:latest")],
)
def test_every_name_is_shown_with_a_tag(name: str, shown: str) -> None:
    assert shown_name(name) == shown


def test_metadata_is_told_as_json_can_have_it(guide_file: Path) -> None:
    header = read_model_header(guide_file)
    odd: dict[str, Entry] = {
        "a": Entry(ValueType.FLOAT32, math.inf),
        "b": Entry(ValueType.STRING, "\udcff"),
        "c": Entry(ValueType.ARRAY, tuple(range(6)), ValueType.INT32),
        "d": Entry(ValueType.ARRAY, SkippedArray(ValueType.STRING, 9), ValueType.STRING),
        "e": Entry(ValueType.ARRAY, (1.0, -math.inf), ValueType.FLOAT32),
    }
    told = info_of(replace(header, metadata=odd), verbose=False)
    n_params = {"general.parameter_count": header.n_elements}
    assert told == {"a": None, "b": "\\udcff", "c": None, "d": None, "e": [1.0, None]} | n_params
    assert info_of(replace(header, metadata=odd), verbose=True)["c"] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("template", "more", "able"),
    [
        ("{{ messages }}", {}, ["completion"]),
        ("{% if tools %}<tool_call>{% endif %}", {}, ["completion", "tools"]),
        ("{% if enable_thinking %}", {}, ["completion", "thinking"]),
        ("", {"tokenizer.ggml.fim_pre_token_id": Entry(ValueType.UINT32, 1)}, ["completion", "insert"]),
    ],
)
def test_what_a_model_can_do_is_seen_in_its_file(
    guide_file: Path, template: str, more: dict[str, Entry], able: Sequence[str]
) -> None:
    metadata = {"tokenizer.chat_template": Entry(ValueType.STRING, template)} | more
    assert capabilities_of(replace(read_model_header(guide_file), metadata=metadata), None) == able


def test_a_digest_is_the_same_until_a_file_is_another() -> None:
    files = [("a.gguf", 10, 1.5), ("b.gguf", 20, 2.5)]
    assert digest_of(files) == digest_of(list(files))
    changed = [digest_of([(name, size + 1, at), files[1]]) for name, size, at in files[:1]]
    assert len({digest_of(files), *changed, digest_of(files[:1]), digest_of(reversed(files))}) == 4
