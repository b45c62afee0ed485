"""Whether what is written for two schemas surely never satisfies both, which oneOf depends on. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmrun.structured.merge import Flat, property_at
from llmrun.structured.values import canonical, type_of

Flatten = Callable[[Any], list[Flat]]
_ALL = ("object", "array", "string", "number", "boolean", "null")
_MAX_DEPTH = 2  # properties of properties that are looked at
# Keywords that say which type is meant, where `type` does not
_FAMILIES = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}


def written_types(flat: Flat) -> tuple[str, ...]:
    """Return the types that are written for a schema: those it names, else those its keywords are about, else all."""
    if "enum" in flat:
        return tuple(dict.fromkeys(map(type_of, flat["enum"])))
    if "type" in flat:
        types: tuple[str, ...] = flat["type"]
        return types
    return tuple(name for name, keys in _FAMILIES.items() if any(key in flat for key in keys)) or _ALL


def are_disjoint(left: Flat, right: Flat, flatten: Flatten, depth: int = 0) -> bool:
    """Tell whether nothing that is written for one satisfies the other, as far as types, values and properties show.

    flatten: the alternatives of a schema.
    """
    common = (_kinds(written_types(left)) & _taken(right)) | (_taken(left) & _kinds(written_types(right)))
    if not common:
        return True
    if "enum" in left and "enum" in right:
        return not set(map(canonical, left["enum"])) & set(map(canonical, right["enum"]))
    if common != {"object"} or depth > _MAX_DEPTH:
        return False
    names = {*left.get("required", ()), *right.get("required", ())}
    return any(_property_differs(name, left, right, flatten, depth) for name in names)


def _property_differs(name: str, left: Flat, right: Flat, flatten: Flatten, depth: int) -> bool:
    """Tell whether a property, which one requires, cannot be what both want of it."""
    ours, theirs = property_at(left, name), property_at(right, name)
    return all(are_disjoint(a, b, flatten, depth + 1) for a in flatten(ours) for b in flatten(theirs))


def _taken(flat: Flat) -> frozenset[str]:
    return _kinds(written_types(flat) if "enum" in flat or "type" in flat else _ALL)


def _kinds(types: tuple[str, ...]) -> frozenset[str]:
    """An integer is a number, when types are compared."""
    return frozenset("number" if name == "integer" else name for name in types)
