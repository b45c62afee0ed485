"""JSON schemas by chance, of all that answers can be held to."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from llmrun.structured.formats import FORMATS

_KEYS = st.sampled_from(["name", "age", "a", "ab", "b c", 'quo"te', "back\\slash", "ünï", "line\nend", "]-^"])
_SMALL = st.integers(0, 4)
_PATTERNS = st.sampled_from(
    [
        "^[a-z]+$",
        r"^\d{3}-\d{4}$",
        "^(foo|ba[rz])?$",
        r'^[^"\\]{1,4}$',
        r"^\w+@\w+\.(com|org)$",
        "b+",
        r"^\W\S\s\D$",
        r"^x|y$",
        r"^[\w.-]{2,}$",
        r"^[^\w]$",
        r"\\",
        "^[ü-ÿ\u4e00]{1,3}$",
        r"^\u0041\x42?.$",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.floats(-9, 9, width=16) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_KEYS, inner, max_size=2),
    max_leaves=3,
)


def _optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def _lengths(low: str, high: str) -> st.SearchStrategy[dict[str, Any]]:
    pairs = st.tuples(_SMALL, _SMALL).map(sorted)
    return pairs.flatmap(lambda pair: _optional(**{low: st.just(pair[0]), high: st.just(pair[1])}))


@st.composite
def _numbers(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["integer", "number"]))
    number = st.integers(-1000, 1000) if draw(st.booleans()) else st.decimals(-50, 50, places=2).map(float)
    low, high = sorted(draw(st.tuples(number, number)))
    found: dict[str, Any] = {"type": kind}
    if draw(st.booleans()):
        found[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        found[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = high + 2
    return found


_STRINGS = st.one_of(
    _lengths("minLength", "maxLength"),
    _PATTERNS.map(lambda pattern: {"pattern": pattern}),
    st.sampled_from(sorted(FORMATS)).map(lambda name: {"format": name}),
).map(lambda rest: {"type": "string"} | rest)
_ENUMS = st.lists(_VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values})
_CONSTS = _VALUES.map(lambda value: {"const": value})
_SIMPLE = st.sampled_from(["null", "boolean", "string", ["string", "null"], ["integer", "number"]])
_LEAVES = st.one_of(_STRINGS, _numbers(), _ENUMS, _CONSTS, _SIMPLE.map(lambda name: {"type": name}))


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(_KEYS, inner, max_size=3))
    found: dict[str, Any] = {"type": "object", "properties": properties}
    if draw(st.booleans()) and properties:
        found["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    if draw(st.booleans()):
        others: st.SearchStrategy[Any] = st.booleans()
        found["additionalProperties"] = draw(others | inner)
    return found


@st.composite
def _arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "array"} | draw(_lengths("minItems", "maxItems"))
    found.setdefault("maxItems", found.get("minItems", 0) + 2)
    if draw(st.booleans()):
        found["items"] = draw(inner)
    if draw(st.booleans()):
        found["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=2))
    return found


def _combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    pairs = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        pairs.map(lambda parts: {"anyOf": parts}),
        pairs.map(lambda parts: {"allOf": parts}),
        pairs.map(lambda parts: {"oneOf": parts}),
        st.tuples(_objects(inner), _objects(inner)).map(lambda two: {"allOf": list(two)}),
        st.tuples(_objects(inner), pairs).map(lambda two: two[0] | {"anyOf": two[1]}),
        st.just({"$ref": "#/$defs/leaf"}),
    )


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Schemas that mostly can be satisfied, a few of which are refused."""
    inner = st.recursive(_LEAVES, lambda part: st.one_of(_objects(part), _arrays(part), _combined(part)), max_leaves=5)
    return st.tuples(st.one_of(_objects(inner), _arrays(inner), _combined(inner), _LEAVES), _LEAVES).map(
        lambda two: two[0] | {"$defs": {"leaf": two[1]}}
    )
