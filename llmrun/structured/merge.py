"""What two schemas say together, as one. Pure."""

from __future__ import annotations

from typing import Any

from llmrun.structured.values import canonical

# A schema without $ref, allOf, anyOf, oneOf and const; its type is a tuple of names
Flat = dict[str, Any]

_LARGER = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")
_SMALLER = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")


class UnmergeableError(ValueError):
    """Both schemas have this keyword, and nothing says the two in one."""


def merge(left: Flat, right: Flat) -> Flat | None:
    """Return a schema for what satisfies both, None where their types or values exclude each other.

    Raises UnmergeableError.
    """
    merged: Flat = dict(left)
    for key, value in right.items():
        if key not in left:
            merged[key] = value
        elif key in _LARGER:
            merged[key] = max(left[key], value)
        elif key in _SMALLER:
            merged[key] = min(left[key], value)
        elif key == "type":
            merged[key] = _common_types(left[key], value)
        elif key == "enum":
            kept = set(map(canonical, value))
            merged[key] = [item for item in left[key] if canonical(item) in kept]
        elif key == "required":
            merged[key] = list(dict.fromkeys((*left[key], *value)))
        elif key in ("pattern", "format") and left[key] != value:
            raise UnmergeableError(key)
    if merged.get("type") == () or merged.get("enum") == []:
        return None
    if "properties" in merged or "additionalProperties" in merged:
        _merge_properties(merged, left, right)
    if "items" in merged or "prefixItems" in merged:
        _merge_items(merged, left, right)
    return merged


def _common_types(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for name in left:
        if name in right or (name == "integer" and "number" in right):
            found.append(name)
        elif name == "number" and "integer" in right:
            found.append("integer")
    return tuple(found)


def _merge_properties(merged: Flat, left: Flat, right: Flat) -> None:
    """A property that one of them does not name is, to that one, an additional one."""
    names = dict.fromkeys((*left.get("properties", {}), *right.get("properties", {})))
    if names:
        merged["properties"] = {name: both(property_at(left, name), property_at(right, name)) for name in names}
    if "additionalProperties" in merged:
        merged["additionalProperties"] = both(*(flat.get("additionalProperties", True) for flat in (left, right)))


def _merge_items(merged: Flat, left: Flat, right: Flat) -> None:
    n_first = max(len(flat.get("prefixItems", ())) for flat in (left, right))
    if n_first:
        merged["prefixItems"] = [both(item_at(left, at), item_at(right, at)) for at in range(n_first)]
    if "items" in merged:
        merged["items"] = both(left.get("items", True), right.get("items", True))


def property_at(flat: Flat, name: str) -> Any:
    """Return the schema for a property of an object, by its name."""
    return flat.get("properties", {}).get(name, flat.get("additionalProperties", True))


def item_at(flat: Flat, at: int) -> Any:
    """Return the schema for an item of an array, by its index."""
    first = flat.get("prefixItems", ())
    return first[at] if at < len(first) else flat.get("items", True)


def both(left: Any, right: Any) -> Any:
    """Return a schema for what satisfies two schemas."""
    if left is True or left == right:
        return right
    if right is True:
        return left
    if left is False or right is False:
        return False
    return {"allOf": [left, right]}
