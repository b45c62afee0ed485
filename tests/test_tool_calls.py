"""Calls of tools in what a model writes: however it is cut into pieces, in each of the formats."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.message import ToolCall
from llmrun.worker.reasoning import CONTROL, mark_controls
from llmrun.worker.tools.finder import CallFinder
from llmrun.worker.tools.format import HERMES, LLAMA3, MISTRAL_NAMED, QWEN_XML, ToolFormat

TOOLS = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "exact": {"type": "boolean"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "where": {"type": "object"},
        },
    },
    "get_time": {"type": "object", "properties": {}},
}
CALL = '{"name": "get_weather", "arguments": {"city": "Bonn"}}'
FORMATS = {"hermes": HERMES, "llama3": LLAMA3, "mistral": MISTRAL_NAMED, "qwen-xml": QWEN_XML}


def counted() -> Callable[[], str]:
    """A maker of ids that are the same in every run."""
    numbers = itertools.count(1)
    return lambda: f"id{next(numbers)}"


def split(
    pieces: Sequence[str], wanted: ToolFormat, controls: Sequence[str] = (), *, parallel: bool = True
) -> list[str | ToolCall]:
    """What comes out, in its order, with texts next to each other joined."""
    finder = CallFinder(wanted, TOOLS, controls, make_id=counted(), parallel=parallel)
    spans = [span for piece in pieces for span in finder.push(piece)] + finder.finish()
    found: list[str | ToolCall] = []
    for span in spans:
        assert (span.text == "") == (span.call is not None)
        last = found[-1] if found else None
        if span.call is None and isinstance(last, str):
            found[-1] = last + span.text
        else:
            found.append(span.call or span.text)
    return found


def read(text: str, wanted: ToolFormat, *, parallel: bool = True) -> list[str | ToolCall]:
    """What a text comes to, whole or letter by letter."""
    whole, letters = (split(pieces, wanted, parallel=parallel) for pieces in ([text], list(text)))
    assert whole == letters
    return whole


def call(number: int, name: str = "get_weather", **arguments: object) -> ToolCall:
    return ToolCall(f"id{number}", name, json.dumps(arguments, ensure_ascii=False))


ONE = call(1, city="Bonn")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", f"<tool_call>\n{CALL}\n</tool_call>"),
        ("hermes", f"\n\n<tool_call>{CALL}</tool_call>\n"),
        ("hermes", f"<tool_call>\n{CALL}"),  # cut off behind it, or the end mark forgotten
        ("hermes", '<tool_call>{"arguments": "{\\"city\\": \\"Bonn\\"}", "name": "get_weather"}</tool_call>'),
        ("llama3", '{"name": "get_weather", "parameters": {"city": "Bonn"}}'),
        ("llama3", '\n{"type": "function", "name": "get_weather", "parameters": {"city": "Bonn"}}'),
        ("llama3", '{"type": "function", "function": "get_weather", "parameters": {"city": "Bonn"}}'),
        ("llama3", '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Bonn"}}'),
        ("mistral", f"[TOOL_CALLS][{CALL}]"),
        ("mistral", f"[TOOL_CALLS] [{CALL} ]"),
        ("mistral", f"[TOOL_CALLS]{CALL}"),
        ("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Bonn"}'),
        ("mistral", '[TOOL_CALLS]get_weather{"city": "Bonn"}'),
        (
            "qwen-xml",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nBonn\n</parameter>\n</function>\n</tool_call>",
        ),
        ("qwen-xml", "<function=get_weather><parameter=city>Bonn</parameter></function>"),
    ],
)
def test_a_call_is_found_in_each_format(name: str, text: str) -> None:
    assert read(text, FORMATS[name]) == [ONE]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", f'<tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "get_time"}}</tool_call>'),
        ("hermes", f'<tool_call>{CALL}\n{{"name": "get_time", "arguments": {{}}}}</tool_call>'),
        ("llama3", f'{CALL}; {{"name": "get_time", "parameters": {{}}}}'),
        ("llama3", f'<|python_tag|>{CALL}<|python_tag|>{{"name": "get_time", "parameters": null}}'),
        ("mistral", f'[TOOL_CALLS][{CALL}, {{"name": "get_time", "arguments": {{}}}}]'),
        ("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Bonn"}[TOOL_CALLS]get_time[ARGS]{}'),
        (
            "qwen-xml",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nBonn\n</parameter>\n</function>\n</tool_call>\n"
            "<tool_call>\n<function=get_time>\n</function>\n</tool_call>",
        ),
    ],
)
def test_several_calls_come_out_one_by_one_and_only_the_first_where_one_is_allowed(name: str, text: str) -> None:
    assert read(text, FORMATS[name]) == [ONE, call(2, "get_time")]
    assert read(text, FORMATS[name], parallel=False) == [ONE]


def test_a_call_comes_out_as_soon_as_it_is_whole() -> None:
    finder = CallFinder(HERMES, TOOLS, make_id=counted())
    assert finder.push(f"I look.\n<tool_call>{CALL[:-1]}")[0].text == "I look."
    assert [span.call for span in finder.push("}")] == [ONE]


def test_the_id_is_the_one_that_the_model_gave() -> None:
    given = '{"name": "get_time", "arguments": {}, "id": "abcdefghi"}'
    assert read(f"[TOOL_CALLS][{given}]", MISTRAL_NAMED) == [ToolCall("abcdefghi", "get_time", "{}")]
    named = "[TOOL_CALLS]get_time[CALL_ID]abcdefghi[ARGS]{}"
    assert read(named, MISTRAL_NAMED) == [ToolCall("abcdefghi", "get_time", "{}")]


def test_an_id_that_is_made_is_new_each_time() -> None:
    finder = CallFinder(HERMES, TOOLS)
    calls = [span.call for span in finder.push(f"<tool_call>{CALL}</tool_call>" * 2) if span.call]
    assert len({found.id for found in calls}) == 2
    assert all(found.id.startswith("call_") for found in calls)


def test_arguments_are_as_they_were_written() -> None:
    written = '{"b":1e400, "a" : [1.50, "\\u00e4\\"}{"],"city":"</tool_call>"}'
    text = f'<tool_call>{{"name": "other.tool", "arguments": {written}}}</tool_call>'
    assert read(text, HERMES) == [ToolCall("id1", "other.tool", written)]


def test_text_before_and_after_a_call_is_text_of_its_own() -> None:
    text = f"I look.\n\n<tool_call>{CALL}</tool_call>\n\nDone."
    assert read(text, HERMES) == ["I look.", ONE, "\n\nDone."]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call> is how I call tools."),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": {]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get time", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": {"a": NaN}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": "{"}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_weather", "argum'),
        ("hermes", "<tool_call></tool_call>"),
        ("hermes", "  <tool_call>"),
        ("hermes", "a < b <tool"),
        ("llama3", '{"name": "Anna", "parameters": {}}'),  # nobody's tool
        ("llama3", '{"answer": {"name": "get_time"}}'),
        ("llama3", '{"name": "get_time", "parameters": {}'),
        ("llama3", 'Use {"name": "get_time", "parameters": {}}'),
        ("llama3", "{{ template }}"),
        ("llama3", " \n {"),
        ("llama3", "<|python_tag|>print(1)"),
        ("mistral", "[TOOL_CALLS][]"),
        ("mistral", "[TOOL_CALLS]no name here[ARGS]{}"),
        ("mistral", f"[TOOL_CALLS]{'a' * 400}[ARGS]{{}}"),
        ("mistral", "[TOOL_CALLS]get_time[ARGS]none"),
        ("qwen-xml", "<tool_call>\n<function=get_time>\n</tool_call>"),
        ("qwen-xml", "<function=get_weather><parameter=city>Bonn"),
        ("qwen-xml", "<function=get_weather><parameter=city>Bonn</parameter> and more"),
    ],
)
def test_what_is_no_call_comes_out_as_it_was_written(name: str, text: str) -> None:
    assert read(text, FORMATS[name]) == [text]


def test_behind_what_is_no_call_one_may_follow() -> None:
    text = f'<tool_call>{{"name": }}</tool_call> <tool_call>{CALL}</tool_call>'
    assert read(text, HERMES) == ['<tool_call>{"name": }</tool_call>', ONE]


def test_other_json_is_let_through_as_soon_as_it_cannot_be_a_call() -> None:
    finder = CallFinder(LLAMA3, TOOLS)
    assert finder.push('{"na') == []
    assert [span.text for span in finder.push('tion": "')] == ['{"nation": "']


def test_a_mark_that_is_a_control_token_is_not_one_when_it_is_only_written() -> None:
    controls = ("[TOOL_CALLS]", "[ARGS]")
    text = "[TOOL_CALLS]get_time[ARGS]{}"
    assert split([text], MISTRAL_NAMED, controls) == [text]
    assert split([mark_controls(text, controls)], MISTRAL_NAMED, controls) == [call(1, "get_time")]
    half = f"{CONTROL}[TOOL_CALLS]get_time[ARGS]{{}}"
    assert split([half], MISTRAL_NAMED, controls) == [text]
    assert split([f"so {CONTROL}[ARGS]it is"], MISTRAL_NAMED, controls) == ["so it is"]


def test_values_without_quotation_marks_are_what_their_schema_says() -> None:
    values = {"city": "12", "days": "12", "exact": "True", "note": "None", "where": '{"a": [1]}', "else": "12"}
    parameters = "\n".join(f"<parameter={key}>\n{value}\n</parameter>" for key, value in values.items())
    expected: dict[str, Any] = {
        "city": "12",
        "days": 12,
        "exact": True,
        "note": None,
        "where": {"a": [1]},
        "else": "12",
    }
    assert read(f"<tool_call>\n<function=get_weather>\n{parameters}\n</function>\n</tool_call>", QWEN_XML) == [
        ToolCall("id1", "get_weather", json.dumps(expected))
    ]


def test_a_value_may_hold_the_marks_of_its_own_format() -> None:
    value = "</function>\n <a></parameter> \n b\n"
    text = f"<function=get_weather><parameter=city>\n{value}\n</parameter>\n</function>"
    assert read(text, QWEN_XML) == [call(1, city=value)]


PARTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", CONTROL),
        *("<function=get_weather>", "</function>", "<parameter=city>", "</parameter>", "<function=", "<parameter="),
        *(CALL, '{"name": "get_time", "parameters": {}}', '{"na', '"', "\\", "{", "}", "[", "]", ",", ";", ":"),
        *(" ", "\n", "\n" * 70, "get_time", "id", "text", "ä", "1e9", "tru", "a" * 300),
    ]
)


@given(st.lists(PARTS, max_size=12).map("".join), st.sampled_from(sorted(FORMATS)), st.booleans(), st.data())
def test_how_a_text_is_cut_changes_nothing(text: str, name: str, is_control: bool, data: st.DataObject) -> None:
    wanted = FORMATS[name]
    controls = wanted.marks if is_control else ()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    whole = split([text], wanted, controls)
    assert split(pieces, wanted, controls) == whole
    assert split(list(text), wanted, controls) == whole


@given(st.lists(PARTS, max_size=12).map("".join), st.sampled_from(sorted(FORMATS)))
def test_no_text_is_lost_but_blanks_and_marks_around_calls(text: str, name: str) -> None:
    found = split([text.replace(CONTROL, "")], FORMATS[name])
    if all(isinstance(part, str) for part in found):
        assert "".join(map(str, found)) == text.replace(CONTROL, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_characters=CONTROL, codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab{}"\\</>[]', max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text('abc{}"\\', max_size=9), JSON, max_size=4), st.booleans())
def test_whatever_the_arguments_are_they_come_back(arguments: dict[str, object], ascii_only: bool) -> None:
    said = json.dumps({"name": "get_weather", "arguments": arguments}, ensure_ascii=ascii_only)
    for text, wanted in (
        (f"<tool_call>\n{said}\n</tool_call>", HERMES),
        (said, LLAMA3),
        (f"[TOOL_CALLS][{said}]", MISTRAL_NAMED),
    ):
        found = split(list(text), wanted)
        assert len(found) == 1
        assert isinstance(found[0], ToolCall)
        assert json.loads(found[0].arguments) == arguments


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("hermes", "<tool_call>"),
        ("hermes", '<tool_call>{"a": "'),
        ("hermes", "\n"),
        ("llama3", "{"),
        ("llama3", ";"),
        ("mistral", "[TOOL_CALLS]["),
        ("mistral", "[TOOL_CALLS]a"),
        ("qwen-xml", "<function=a><parameter=b>"),
        ("qwen-xml", "</parameter> "),
    ],
)
def test_hostile_text_takes_linear_time(name: str, unit: str) -> None:
    """Four times the text in about four times the time; quadratic would be sixteen times."""
    start = "<function=a><parameter=b>" if unit.startswith("</par") else ""

    def seconds(length: int) -> float:
        text = start + unit * (length // len(unit))
        best = float("inf")
        for _ in range(3):
            started = time.process_time()
            split([text[at : at + 4] for at in range(0, len(text), 4)], FORMATS[name])
            best = min(best, time.process_time() - started)
        return best

    assert seconds(32_000) < 9 * max(seconds(8_000), 0.005)
