"""Values of JSON compared as JSON schema compares them: 1 is 1.0, and true is not 1. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def is_same(left: Any, right: Any) -> bool:
    """Tell whether two values of JSON are equal, true and 1 apart."""
    return canonical(left) == canonical(right)


def canonical(value: Any) -> str:
    """Return a text that only equal values of JSON share; 1 and 1.0 are equal."""
    return json.dumps(_canonical(value), sort_keys=True)


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def type_of(value: Any) -> str:
    """Return the type JSON schema knows a value by; a whole number is "integer"."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    names = ((float, "number"), (str, "string"), (list, "array"), (Mapping, "object"))
    return next((name for kind, name in names if isinstance(value, kind)), "null")
