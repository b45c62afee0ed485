"""history.export: a conversation as text, and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.history.export import figures, format_json, format_markdown, parse_conversation
from llmrun.history.record import MAX_NAME, Saved, Turn, new_id
from llmrun.history.store import no_history

AT = datetime(2026, 11, 25, 22, 5, tzinfo=UTC)
SAVED = Saved(
    "lusab-babad",
    "trip",
    "qwen3:8b",
    "Qwen/Qwen3-8B-GGUF:Q4_K_M",
    "Be brief.",
    {"temperature": 0.2},
    AT,
    AT,
    (
        Turn("user", "Where to?", images=("/tmp/map.png",), at=AT),
        Turn("assistant", "# Rome\n\n- *now*\n", "Hm, Rome.", (), "gemma3:4b", "stop", {"prompt_tokens": 9}, AT),
    ),
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
maybe = st.none() | texts
names = st.none() | st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=MAX_NAME)
moments = st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1), timezones=st.just(UTC))
numbers = st.none() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
turns = st.builds(
    Turn,
    st.sampled_from(["user", "assistant"]),
    texts,
    texts,
    st.lists(texts, max_size=2).map(tuple),
    maybe,
    maybe,
    st.dictionaries(texts, numbers, max_size=2),
    moments,
)
conversations = st.builds(
    Saved,
    st.builds(new_id),
    names.filter(lambda name: name != "lusab-babad"),
    texts,
    maybe,
    maybe,
    st.dictionaries(texts, numbers | texts | st.booleans(), max_size=3),
    moments,
    moments,
    st.lists(turns, max_size=4).map(tuple),
)


@given(conversations)
def test_what_was_exported_can_be_imported(saved: Saved) -> None:
    assert parse_conversation(format_json(saved)) == saved


@settings(max_examples=40)
@given(conversations)
def test_and_kept_as_it_was(saved: Saved) -> None:
    if not any(turn.role == "assistant" for turn in saved.turns):
        return
    with no_history() as store:
        assert store.find(store.insert(parse_conversation(format_json(saved)))) == saved


@settings(max_examples=40)
@given(conversations)
def test_any_conversation_can_be_read(saved: Saved) -> None:
    text = format_markdown(saved)
    assert all(turn.content.strip("\n") in text for turn in saved.turns)


def test_markdown_has_who_said_what() -> None:
    assert (
        format_markdown(SAVED)
        == """\
# trip

lusab-babad · qwen3:8b (Qwen/Qwen3-8B-GGUF:Q4_K_M) · 2026-11-25 22:05 UTC

## System

Be brief.

## You

![](/tmp/map.png)

Where to?

## gemma3:4b

<details><summary>thoughts</summary>

Hm, Rome.

</details>

# Rome

- *now*
"""
    )


def test_json_has_stable_keys() -> None:
    found: dict[str, Any] = figures(SAVED)
    assert set(found) == {
        "format",
        "id",
        "name",
        "model",
        "resolved",
        "system",
        "settings",
        "created",
        "updated",
        "turns",
    }
    assert found["turns"][1] == {
        "role": "assistant",
        "content": "# Rome\n\n- *now*\n",
        "thoughts": "Hm, Rome.",
        "images": [],
        "model": "gemma3:4b",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 9},
        "at": "2026-11-25T22:05:00+00:00",
    }


WRONG: list[tuple[str, object]] = [
    ("format", 2),
    ("id", "../x"),
    ("id", None),
    ("name", "a\nb"),
    ("name", 1),
    ("model", None),
    ("system", 5),
    ("settings", []),
    ("settings", {"x": []}),
    ("created", "yesterday"),
    ("updated", 7),
    ("turns", None),
    ("turns", ["hi"]),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_what_cannot_have_been_exported_is_refused(key: str, value: object) -> None:
    with pytest.raises(UsageError):
        parse_conversation(json.dumps(figures(SAVED) | {key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("role", "system"), ("content", None), ("thoughts", 1), ("images", "x"), ("images", [1]), ("at", "x"), ("at", 1)]
    + [("usage", {"x": value}) for value in ("y", True)],
)
def test_nor_can_such_a_turn(key: str, value: object) -> None:
    found: dict[str, Any] = figures(SAVED)
    found["turns"][0][key] = value
    with pytest.raises(UsageError):
        parse_conversation(json.dumps(found))


@given(
    st.text(max_size=20) | st.dictionaries(st.sampled_from(["format", "id", "turns"]), st.integers()).map(json.dumps)
)
def test_no_text_is_a_crash(text: str) -> None:
    with pytest.raises(UsageError):
        parse_conversation(text)


def test_nor_is_a_deep_one() -> None:
    with pytest.raises(UsageError):
        parse_conversation("[" * 100_000)
