"""structured.convert: what a schema's grammar lets through satisfies the schema, or the schema is refused by name."""

from __future__ import annotations

import contextlib
import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.structured.convert import gbnf_of
from llmrun.structured.gbnf import check_grammar
from llmrun.structured.numbers import Bounds, decimals, integers


def refusal(schema: Any) -> str:
    with pytest.raises(UsageError) as caught:
        gbnf_of(schema if isinstance(schema, str) else json.dumps(schema))
    return caught.value.message


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"not": {}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"patternProperties": {"^a": {}}}, "patternProperties"),
        ({"propertyNames": {"maxLength": 3}}, "propertyNames"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "number", "multipleOf": 0.01}, "multipleOf"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "object", "properties": {"a": {}}, "unevaluatedProperties": {}}, "unevaluatedProperties"),
        ({"type": "string", "format": "iri"}, "format"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"type": "string", "pattern": r"\bword\b"}, "pattern"),
        ({"type": "string", "pattern": "^(ab|c)+$", "maxLength": 3}, "pattern"),
        ({"type": "string", "pattern": "^a$", "format": "date"}, "pattern"),
        ({"enum": ["a"], "pattern": "^b$"}, "pattern"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "pattern"),
        ({"$ref": "https://example.com/schema.json"}, "$ref"),
        ({"$ref": "other.json#/a"}, "$ref"),
        ({"$ref": "#/$defs/none"}, "$ref"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"oneOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}}]}, "oneOf"),
        ({"type": "string", "minLength": 10**7}, "minLength"),
        ({"properties": {"a": {"$id": "x", "type": "null"}}}, "$id"),
        ({"properties": {"deep": {"items": {"not": {}}, "type": "array"}}}, "#/properties/deep/items"),
    ],
)
def test_a_keyword_that_cannot_be_kept_to_is_refused_by_name(schema: Any, keyword: str) -> None:
    assert keyword in refusal(schema)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("[", "not JSON: line 1"),
        ('{"minimum": NaN}', "NaN"),
        ("[]", "neither an object"),
        ({"type": "text"}, "type"),
        ({"minLength": "2"}, "minLength"),
        ({"maxItems": -1}, "maxItems"),
        ({"required": "a"}, "required"),
        ({"anyOf": []}, "anyOf"),
        ({"$ref": "#"}, "refers to itself"),
        ({"allOf": [{"$ref": "#"}]}, "refers to itself"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "nothing satisfies"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "nothing satisfies"),
        ({"properties": {"a": False}, "required": ["a"]}, "nothing satisfies"),
        ("{" + '"a":{' * 5000 + "}" * 5001, "nested too deeply"),
        ('{"type": "array", "items": ' * 2000 + "{}" + "}" * 2000, "nested too deeply"),
        (False, "nothing satisfies"),
    ],
)
def test_a_schema_that_makes_no_sense_is_a_usage_error(schema: Any, message: str) -> None:
    assert message in refusal(schema)


def test_a_schema_that_can_never_be_written_to_its_end_is_refused() -> None:
    endless = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    with pytest.raises(UsageError, match="never ends"):
        check_grammar(gbnf_of(json.dumps(endless)))


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"title": "T", "x-own": 1, "type": "object"},
        {"type": "array", "uniqueItems": True, "maxItems": 1},
        {"type": "number", "multipleOf": 1},
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "items": {"type": "null"}, "minItems": 2500, "maxItems": 9999},
        {"oneOf": [{"properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in ("cat", "dog", 1)]},
        {"oneOf": [{"type": "null"}, {"type": "string"}]},
        {"enum": [f"word {number}" for number in range(12_000)]},
        {"properties": {"k" * 300: {}}, "additionalProperties": {"type": "null"}},
        {"type": "number", "exclusiveMinimum": True, "minimum": 0},
        {"type": "array", "items": [{"type": "null"}], "additionalItems": False},
    ],
)
def test_a_schema_that_can_be_kept_to_is_a_grammar(schema: Any) -> None:
    check_grammar(gbnf_of(json.dumps(schema)))


def _regex(expression: str) -> re.Pattern[str]:
    """Digits, classes, groups and counts mean the same to Python, once texts in quotes are escaped."""
    parts = re.split(r'("[^"]*")', expression)
    plain = [f"(?:{re.escape(part[1:-1])})" if part.startswith('"') else part.replace(" ", "") for part in parts]
    return re.compile("".join(plain))


BOUNDS = st.decimals(-1200, 1200, places=2) | st.integers(-(10**6), 10**6).map(Decimal)


@given(
    BOUNDS, BOUNDS, st.booleans(), st.booleans(), st.lists(BOUNDS, min_size=5), st.sampled_from(["both", "low", "high"])
)
def test_a_range_lets_through_what_lies_within_and_nothing_else(
    low: Decimal, high: Decimal, open_below: bool, open_above: bool, numbers: list[Decimal], which: str
) -> None:
    low, high = sorted((low, high))
    bounds = Bounds(low if which != "high" else None, high if which != "low" else None, open_below, open_above)
    whole, broken = integers(bounds), decimals(bounds)
    for number in (*numbers, low, high, low + 1, high - 1, (low + high) / 2):
        text = format(number if number else abs(number), "f")
        assert bool(broken and _regex(broken).fullmatch(text)) == bounds.contain(number)
        digits = str(int(number))
        assert bool(whole and _regex(whole).fullmatch(digits)) == bounds.contain(Decimal(digits))


KEYWORDS = (
    *("type", "enum", "const", "properties", "required", "items", "prefixItems", "anyOf", "oneOf", "allOf", "$ref"),
    *("pattern", "format", "minimum", "minLength", "maxItems", "additionalProperties", "a"),
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["object", "#", "#/a", "^a", "date", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
    max_leaves=12,
)


@given(ANYTHING)
def test_no_schema_is_a_bug(schema: Any) -> None:
    """A schema is a grammar that llama.cpp can read, or a UsageError."""
    with contextlib.suppress(UsageError):
        check_grammar(gbnf_of(json.dumps(schema)))
