"""JSON schemas taken apart: every schema as alternatives without $ref, allOf, anyOf and oneOf. Pure.

Drafts 4 to 2020-12, as far as what is written can be held to them: a keyword that cannot be is refused by its name,
because an answer that only looks valid is worse than none. References lead within the schema, never elsewhere.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from llmrun.errors import UsageError
from llmrun.structured.disjoint import are_disjoint
from llmrun.structured.merge import Flat, UnmergeableError, merge
from llmrun.structured.values import is_same, type_of

_MAX_ALTERNATIVES = 500
_MAX_DEPTH = 64  # schemas in schemas by $ref, allOf and anyOf, before one that can be written

_COMBINING = ("$ref", "allOf", "anyOf", "oneOf")
# What a schema says itself. Other keywords that are not refused describe, or mean nothing to JSON schema.
_KNOWN = frozenset(
    (
        *("type", "enum", "const", "pattern", "format", "minLength", "maxLength"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
        *("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
    )
)
_REFUSED = {
    "not": "name what is allowed instead: enum, or types",
    "if": "anyOf with a const each can say the same",
    "dependentSchemas": "anyOf with a const each can say the same",
    "dependentRequired": "anyOf can say the same",
    "dependencies": "anyOf can say the same",
    "patternProperties": "name the properties, or give additionalProperties a schema",
    "propertyNames": "name the properties, or give additionalProperties a schema",
    "contains": None,
    "unevaluatedItems": "items: false can often say the same",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
}
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def where(path: str) -> str:
    """Return where in a schema something is, in words; path: a JSON pointer behind "#"."""
    return "at its top" if path == "#" else f"at {path}"


def refuse(keyword: str, path: str, why: str = "cannot be kept to", hint: str | None = None) -> UsageError:
    """Return the error for a keyword that an answer cannot be held to."""
    return UsageError(f'the schema\'s "{keyword}" {where(path)} {why}', hint)


class Schemas:
    """A schema and what is in it; the root is what references begin at."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def flatten(self, schema: Any, path: str, depth: int = 0) -> list[Flat]:
        """Return the alternatives of a schema; none at all is one that nothing satisfies. Raises UsageError."""
        if isinstance(schema, bool):
            return [{}] if schema else []
        if not isinstance(schema, Mapping):
            raise UsageError(f"the schema {where(path)} is neither an object nor true nor false")
        if depth > _MAX_DEPTH:
            raise UsageError(f"the schema {where(path)} refers to itself before it says anything")
        found: list[Flat] = [_own_part(schema, path, is_root=schema is self._root)]
        for keyword in _COMBINING:
            if keyword in schema:
                parts = self._parts(keyword, schema[keyword], f"{path}/{keyword}", depth + 1)
                for alternatives in parts:
                    found = _both(found, alternatives, f"{path}/{keyword}")
        return found

    def _parts(self, keyword: str, value: Any, path: str, depth: int) -> list[list[Flat]]:
        """Return what must hold together: a list of alternatives each."""
        if keyword == "$ref":
            return [self.flatten(self.resolve(value, path), str(value), depth)]
        if not isinstance(value, list) or not value:
            raise UsageError(f"the schema's {path} must be a list of schemas")
        branches = [self.flatten(part, f"{path}/{number}", depth) for number, part in enumerate(value)]
        if keyword == "allOf":
            return branches
        if keyword == "oneOf":
            self._check_one_of(branches, path)
        return [list(itertools.chain.from_iterable(branches))]

    def _check_one_of(self, branches: list[list[Flat]], path: str) -> None:
        flatten: Callable[[Any], list[Flat]] = lambda schema: self.flatten(schema, path)  # noqa: E731 - typed
        for (i, left), (j, right) in itertools.combinations(enumerate(branches), 2):
            if not all(are_disjoint(a, b, flatten) for a in left for b in right):
                hint = "write anyOf, or give each a required property with a const of its own"
                raise refuse("oneOf", path, f"has alternatives that may both match: {i} and {j}", hint)

    def resolve(self, ref: Any, path: str) -> Any:
        """Return what a reference within the schema leads to; raises UsageError for any other."""
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            raise refuse("$ref", path, f"leads out of the schema: {ref}", "put what it means under $defs: #/$defs/name")
        target = self._root
        for step in ref.split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isdigit() and int(key) < len(target):
                target = target[int(key)]
            else:
                raise refuse("$ref", path, f"leads nowhere: {ref}")
        return target


def _own_part(schema: Mapping[str, Any], path: str, *, is_root: bool) -> Flat:
    """Return what a schema says itself, in one form whatever the draft; raises UsageError for what is refused."""
    for keyword, hint in _REFUSED.items():
        if keyword in schema:
            raise refuse(keyword, path, hint=hint)
    if not is_root and ("$id" in schema or ("id" in schema and isinstance(schema["id"], str))):
        raise refuse("$id", path, "makes references mean something else within it", "leave it out")
    own = {key: value for key, value in schema.items() if key in _KNOWN}
    _check_types(own, path)
    if "const" in own:
        value = own.pop("const")
        own["enum"] = [value] if "enum" not in own else [other for other in own["enum"] if is_same(other, value)]
    _take_draft_4(own)
    _take_whole_steps(schema, own, path)
    if schema.get("uniqueItems") and own.get("maxItems", 2) > 1:
        raise refuse("uniqueItems", path, hint="leave it out, or list the choices as properties of true and false")
    if "unevaluatedProperties" in schema:
        if schema["unevaluatedProperties"] is not False or any(key in schema for key in _COMBINING):
            raise refuse("unevaluatedProperties", path, hint="additionalProperties can often say the same")
        own.setdefault("additionalProperties", False)
    return own


def _check_types(own: Flat, path: str) -> None:
    wanted: dict[str, tuple[type, ...]] = {
        "properties": (Mapping,),
        "required": (list,),
        "enum": (list,),
        "pattern": (str,),
        "format": (str,),
        "prefixItems": (list,),
    }
    for key, value in own.items():
        if key in wanted and not isinstance(value, wanted[key]):
            raise UsageError(f"the schema's {key} {where(path)} is not what it must be: {json.dumps(value)[:60]}")
        is_count = key.startswith(("min", "max")) and key not in ("minimum", "maximum")
        if is_count and (type_of(value) != "integer" or value < 0):
            raise UsageError(f"the schema's {key} {where(path)} must be a whole number, not {json.dumps(value)[:60]}")
        if is_count:
            own[key] = int(value)
    types = own.get("type", [])
    for name in types if isinstance(types, list) else [types]:
        if name not in _TYPES:
            raise UsageError(
                f"the schema's type {where(path)} is no type: {json.dumps(name)[:60]}", f"one of {', '.join(_TYPES)}"
            )
    if "type" in own:
        own["type"] = tuple(types) if isinstance(types, list) else (types,)


def _take_draft_4(own: Flat) -> None:
    """Bounds that say true, and items that are a list, as later drafts write them."""
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(own.get(exclusive), bool) and own.pop(exclusive) and bound in own:
            own[exclusive] = own.pop(bound)
    if isinstance(own.get("items"), list):
        own["prefixItems"] = own.pop("items")
        if "additionalItems" in own:
            own["items"] = own["additionalItems"]
    own.pop("additionalItems", None)


def _take_whole_steps(schema: Mapping[str, Any], own: Flat, path: str) -> None:
    """Take multipleOf 1, which is another way to say integer."""
    if "multipleOf" not in schema:
        return
    numeric = {"number", "integer"} & set(own.get("type", ("number",)))
    if numeric and schema["multipleOf"] != 1:
        raise refuse("multipleOf", path, hint="scale the number, or list the choices as enum")
    if numeric:
        types = own.get("type", _TYPES)
        own["type"] = tuple(dict.fromkeys("integer" if name == "number" else name for name in types))


def _both(left: list[Flat], right: list[Flat], path: str) -> list[Flat]:
    if len(left) * len(right) > _MAX_ALTERNATIVES:
        raise UsageError(f"the schema {where(path)} has more than {_MAX_ALTERNATIVES} alternatives, all combined")
    try:
        merged = (merge(a, b) for a in left for b in right)
        return [flat for flat in merged if flat is not None]
    except UnmergeableError as error:
        raise refuse(str(error), path, "is said twice, and not alike") from error
