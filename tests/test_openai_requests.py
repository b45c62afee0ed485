"""What OpenAI's clients send, as an Ask: values in, values out."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.engine.protocol import Grammar
from llmrun.errors import UsageError
from llmrun.message import Message, RawPrompt, Tool, ToolCall, ToolChoice
from llmrun.sampling import MAX_SEED, Penalties, SamplingWish, choose_sampling
from llmrun.server.ask import Ask
from llmrun.server.openai.chat_request import ChatRequest, parse_chat
from llmrun.server.openai.text_request import TextRequest, parse_text

USER = {"role": "user", "content": "hello"}


def chat(**body: Any) -> Ask:
    """An Ask of a body, images kept as the text of their bytes."""
    whole = {"messages": [USER]} | body
    return parse_chat(msgspec.convert(whole, ChatRequest), lambda data: f"kept:{data.decode()}")


def text(**body: Any) -> Ask:
    return parse_text(msgspec.convert({"prompt": "once"} | body, TextRequest))


def test_what_is_not_said_is_not_wished() -> None:
    assert chat() == Ask("", (Message("user", "hello"),))


def test_null_is_as_good_as_nothing() -> None:
    """Clients send every parameter they know, with null for those that their user left alone."""
    fields = {field.name for field in msgspec.structs.fields(ChatRequest)} - {"messages"}
    assert chat(**dict.fromkeys(fields)) == chat()
    fields = {field.name for field in msgspec.structs.fields(TextRequest)} - {"prompt"}
    assert text(**dict.fromkeys(fields)) == text()


def test_every_parameter_arrives() -> None:
    asked = chat(
        model="guide",
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        repeat_penalty=1.1,
        seed=3,
        stop=["a", "b"],
        max_tokens=9,
        n=2,
        logprobs=True,
        top_logprobs=4,
        frequency_penalty=0.5,
        presence_penalty=-1,
        logit_bias={"12": -100, "7": 3.5},
    )
    assert asked == Ask(
        "guide",
        (Message("user", "hello"),),
        sampling=SamplingWish(0.5, 7, 0.9, 0.1, 1.1, 3),
        penalties=Penalties(0.5, -1, ((12, -100), (7, 3.5))),
        max_tokens=9,
        stop=("a", "b"),
        logprobs=4,
        n=2,
    )


@given(st.integers())
def test_any_seed_can_be_drawn_with(seed: int) -> None:
    sampling, _ = choose_sampling(chat(seed=seed).sampling, {})
    assert sampling.seed == (None if seed == -1 else seed % (MAX_SEED + 1))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": -1}, None),
    ],
)
def test_either_name_of_the_length_will_do(body: dict[str, int], expected: int | None) -> None:
    assert chat(**body).max_tokens == expected


def test_one_text_to_stop_at_is_a_list_of_one() -> None:
    assert chat(stop="END").stop == ("END",)
    assert chat(stop="").stop == ()


def test_a_conversation_with_a_tool_arrives_whole() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tool = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": parameters}}
    asked = chat(messages=messages, tools=[tool], tool_choice="auto")
    assert asked.messages == (
        Message("system", "be short"),
        Message("user", "one\ntwo"),
        Message("assistant", "", thoughts="hm", calls=(ToolCall("c1", "add", '{"a": 1}'),)),
        Message("tool", "3", call_id="c1"),
    )
    assert asked.tools == (Tool("add", "adds", '{"type":"object","properties":{"a":{"type":"integer"}}}'),)
    assert chat(messages=messages, tools=[tool], tool_choice="none").tools == ()


def test_a_tool_may_have_to_be_called() -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    named = {"type": "function", "function": {"name": "add"}}
    assert chat(tools=[tool]).tool_choice == ToolChoice()
    assert chat(tools=[tool], tool_choice="required").tool_choice == ToolChoice(required=True)
    assert chat(tools=[tool], tool_choice=named).tool_choice == ToolChoice(required=True, name="add")
    assert chat(tools=[tool], parallel_tool_calls=False).tool_choice == ToolChoice(parallel=False)


def test_images_come_only_inside_the_request() -> None:
    url = "data:image/png;base64," + base64.b64encode(b"pixels").decode()
    image = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    asked = chat(messages=[{"role": "user", "content": [{"type": "text", "text": "what?"}, image]}])
    assert asked.messages == (Message("user", "what?", images=("kept:pixels",)),)
    for other in ("http://127.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd", "/etc/passwd"):
        foreign = {"type": "image_url", "image_url": {"url": other}}
        with pytest.raises(UsageError, match="nothing is fetched"):
            chat(messages=[{"role": "user", "content": [foreign]}])


def test_a_form_of_the_answer_becomes_a_grammar() -> None:
    assert chat(response_format={"type": "text"}).grammar is None
    assert chat(response_format={"type": "json_object"}).grammar == Grammar("json_schema", '{"type":"object"}')
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    wanted = Grammar("json_schema", '{"type":"object","properties":{"b":{},"a":{}}}')
    assert chat(response_format=form).grammar == wanted
    assert chat(grammar='root ::= "a"').grammar == Grammar("gbnf", 'root ::= "a"')


@pytest.mark.parametrize(
    ("body", "think"),
    [
        ({"reasoning_effort": "none"}, "off"),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "high"}, "high"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "on"),
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"}, "off"),
        ({"chat_template_kwargs": {"reasoning_effort": "medium"}}, "medium"),
    ],
)
def test_a_wish_for_reasoning_is_one_of_ours(body: dict[str, Any], think: str) -> None:
    assert chat(**body).think == think


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"top_logprobs": 3}, "logprobs is not true"),
        ({"stream_options": {"include_usage": True}}, "stream is not true"),
        ({"logit_bias": {"hello": 1}}, "tokens are meant by their number"),
        ({"logit_bias": {"5": 101}}, "between -100 and 100"),
        ({"stop": ["x"] * 65}, "at most 64"),
        ({"functions": [{"name": "f"}]}, "use|not supported"),
        ({"modalities": ["text", "audio"]}, "text alone"),
        ({"verbosity": "low"}, "verbosity"),
        ({"mirostat": 2}, "mirostat is not supported"),
        ({"typical_p": 0.5}, "typical_p is not supported"),
        ({"guided_json": {}}, "guided_json is not supported"),
        ({"web_search_options": {}}, "web"),
        ({"grammar": 'root ::= "a"', "response_format": {"type": "json_object"}}, "both"),
        ({"chat_template_kwargs": {"tools_in_user_message": True}}, "tools_in_user_message"),
        ({"chat_template_kwargs": {"enable_thinking": "yes"}}, "neither true nor false"),
        ({"messages": [{"role": "tool", "content": "3"}]}, "no tool_call_id"),
    ],
)
def test_what_would_change_answers_and_is_not_had_is_refused(body: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        chat(**body)


def test_what_other_servers_have_is_taken_where_it_changes_nothing() -> None:
    assert chat(mirostat=0, typical_p=1.0, xtc_probability=0.0, ignore_eos=False, stop_token_ids=[]) == chat()
    assert chat(user="me", metadata={"a": "b"}, store=True, service_tier="auto", cache_prompt=True) == chat()


@pytest.mark.parametrize(
    "body",
    [
        {"n": 0},
        {"n": 17},
        {"top_p": 1.5},
        {"temperature": -1},
        {"presence_penalty": 3},
        {"logprobs": True, "top_logprobs": 21},
        {"messages": []},
        {"messages": [{"role": "robot", "content": ""}]},
        {"response_format": {"type": "xml"}},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
    ],
)
def test_what_the_schema_excludes_is_no_request(body: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        chat(**body)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("once", (RawPrompt("once"),)),
        (["a", "b"], (RawPrompt("a"), RawPrompt("b"))),
        ([1, 2], (RawPrompt("", tokens=(1, 2)),)),
        ([[1], [2, 3]], (RawPrompt("", tokens=(1,)), RawPrompt("", tokens=(2, 3)))),
    ],
)
def test_a_prompt_has_four_shapes(prompt: Any, expected: tuple[RawPrompt, ...]) -> None:
    assert text(prompt=prompt).raw == expected


def test_a_text_is_gone_on_with_for_as_long_as_openai_does() -> None:
    assert (text().max_tokens, text(max_tokens=-1).max_tokens, text(max_tokens=99).max_tokens) == (16, None, 99)


def test_a_gap_is_filled_between_prompt_and_suffix() -> None:
    assert text(suffix="end").raw == (RawPrompt("once", "end"),)
    assert text(suffix="").raw == (RawPrompt("once"),)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"prompt": []}, "empty"),
        ({"prompt": [[]]}, "empty"),
        ({"prompt": ["a", 1]}, "texts and tokens"),
        ({"prompt": ["a"] * 65}, "at most 64"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "probabilities"),
        ({"echo": True, "prompt": [1]}, "tokens"),
    ],
)
def test_what_cannot_be_completed_is_refused(body: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        text(**body)


def test_penalties_that_cannot_be_taken_off_are_refused() -> None:
    for wrong in ({"frequency": 2.5}, {"presence": -3}, {"logit_bias": ((-1, 0.0),)}, {"frequency": float("nan")}):
        with pytest.raises(UsageError, match="must lie between"):
            Penalties(**wrong)
