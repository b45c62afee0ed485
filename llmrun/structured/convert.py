"""A JSON schema as a grammar in GBNF: whatever the grammar lets through satisfies the schema. Pure.

Not the other way around: of the many texts that satisfy a schema the grammar takes those people write. Properties come
in the schema's order, and others only where it asks for them; numbers have 15 digits; white space is short. The way of
llama.cpp (common/json-schema-to-grammar.cpp), whose own conversion passes over keywords that it does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from llmrun.errors import UsageError
from llmrun.structured.characters import CHAR, PLAIN_CHAR, class_of, literal, one_of
from llmrun.structured.disjoint import written_types
from llmrun.structured.formats import FORMATS
from llmrun.structured.merge import Flat, item_at
from llmrun.structured.numbers import Bounds, decimals, exact, integers
from llmrun.structured.pattern import UnsupportedPatternError, pattern_rule
from llmrun.structured.repetition import MOST, list_of, times
from llmrun.structured.schema import Schemas, refuse, where
from llmrun.structured.values import canonical, type_of

_MAX_TEXT = 1 << 20  # characters of a schema
_MAX_RULES = 20_000
_MAX_HINT = 40  # characters of a rule's name

# llama.cpp's own (SPACE_RULE of common/json-schema-to-grammar.cpp): without an end a model may write blanks for ever
_SPACE = '| " " | "\\n"{1,2} [ \\t]{0,20}'
_FIXED = {
    "space": _SPACE,
    "char": CHAR,
    "plain": PLAIN_CHAR,
    "string": '"\\"" char* "\\""',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" space (string space ":" space value (space "," space string space ":" space value)*)? space "}"',
    "array": '"[" space (value (space "," space value)*)? space "]"',
    "number": decimals(Bounds()) or "",
    "integer": integers(Bounds()) or "",
    "boolean": '"true" | "false"',
    "null": '"null"',
}
_BACKSLASH = "\\"
_PROPERTY_COUNTS = ("minProperties", "maxProperties")
_COLON, _COMMA = 'space ":" space', 'space "," space'


def parse_schema(text: str) -> Any:
    """Return a JSON schema that was written as text; raises UsageError for what is none."""
    if len(text) > _MAX_TEXT:
        raise UsageError(f"the schema has {len(text):,} characters: at most {_MAX_TEXT:,} are taken")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise UsageError(f"the schema is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise UsageError("the schema is nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise UsageError(f"the schema is not JSON: {name} is no number there")


def gbnf_of(text: str) -> str:
    """Return the grammar of a JSON schema; raises UsageError for one that answers cannot be held to, with the reason.

    What a reader with doubles makes of the answer satisfies the schema, formats included.
    """
    try:
        return _Converter(parse_schema(text)).convert()
    except RecursionError as error:
        raise UsageError("the schema is nested too deeply") from error


def rules_of(schema: Any, name: str, path: str = "#") -> str:
    """Return rules for a part of a larger grammar, of which `name` is the schema's; all others' names begin with it.

    path: of the part of the schema that is meant. FIXED_RULES must stand beside them. Raises what gbnf_of raises.
    """
    try:
        return _Converter(schema, name).rules(path)
    except RecursionError as error:
        raise UsageError("the schema is nested too deeply") from error


FIXED_RULES = "".join(f"{name} ::= {body}\n" for name, body in _FIXED.items())


class _Converter:
    """Makes rules, one for each schema that is met; a schema that is met again is the same rule."""

    def __init__(self, schema: Any, name: str = "root") -> None:
        self._root = schema
        self._schemas = Schemas(schema)
        self._top = name
        self._prefix = "" if name == "root" else f"{name}-"
        self._rules: dict[str, str] = {}
        self._known: dict[str, str] = {}

    def convert(self) -> str:
        return self.rules("#") + FIXED_RULES

    def rules(self, path: str) -> str:
        self._rules[self._top] = self._rule(self._schemas.resolve(path, path), "answer", path)
        return "".join(f"{name} ::= {body}\n" for name, body in self._rules.items())

    def _rule(self, schema: Any, hint: str, path: str) -> str:
        """Return the name of the rule for a schema; raises UsageError where nothing satisfies it."""
        while isinstance(schema, dict) and set(schema) == {"$ref"} and canonical(schema) not in self._known:
            key, path = canonical(schema), str(schema["$ref"])
            target = self._schemas.resolve(schema["$ref"], path)
            hint = path.rsplit("/", 1)[-1] or hint
            if target == schema:
                raise UsageError(f"the schema {where(path)} refers to itself before it says anything")
            self._known[key] = self._name(hint)
            self._rules[self._known[key]] = self._rule(target, hint, path)
            return self._known[key]
        key = canonical(schema)
        if key not in self._known:
            self._known[key] = name = self._name(hint)
            options = self._options(schema, name, path)
            if not options:
                raise UsageError(f"nothing satisfies the schema {where(path)}")
            self._rules[name] = " | ".join(dict.fromkeys(options))
        return self._known[key]

    def _name(self, hint: str) -> str:
        hint = re.sub(r"[^A-Za-z0-9]+", "-", hint.removeprefix(self._prefix)).strip("-")[-_MAX_HINT:]
        base = self._prefix + (hint or "part")
        name, number = base, 1
        while name in self._rules or name in _FIXED or name == self._top:
            number += 1
            name = f"{base}-{number}"
        self._rules[name] = ""  # taken; what it is comes later
        if len(self._rules) > _MAX_RULES:
            raise UsageError(f"the schema makes a grammar of more than {_MAX_RULES:,} rules")
        return name

    def _add(self, hint: str, body: str) -> str:
        name = self._name(hint)
        self._rules[name] = body
        return name

    def _options(self, schema: Any, name: str, path: str) -> list[str]:
        flats = self._schemas.flatten(schema, path)
        return [option for flat in flats for option in self._flat_options(flat, name, path)]

    def _flat_options(self, flat: Flat, name: str, path: str) -> list[str]:
        if "enum" in flat:
            texts = dict.fromkeys(_dump(value) for value in flat["enum"] if self._takes(flat, value, path))
            return [one_of(list(texts))] if texts else []
        found = []
        for kind in written_types(flat):
            if kind == "integer" and "number" in written_types(flat):
                continue
            option = self._of_type(kind, flat, name, path)
            if option is not None:
                found.append(option)
        return found

    def _of_type(self, kind: str, flat: Flat, name: str, path: str) -> str | None:
        match kind:
            case "object":
                return self._object(flat, name, path)
            case "array":
                return self._array(flat, name, path)
            case "string":
                return self._string(flat, path)
            case "number" | "integer":
                bounds = _bounds(flat, path)
                if bounds.without_end():
                    return kind
                found = integers(bounds) if kind == "integer" else decimals(bounds)
                return f"({found})" if found else None
            case _:
                return kind

    def _takes(self, flat: Flat, value: Any, path: str) -> bool:
        """Tell whether a value of an enum satisfies what else is said of it."""
        kind = type_of(value)
        types = flat.get("type")
        if types is not None and kind not in types and not (kind == "integer" and "number" in types):
            return False
        if kind in ("integer", "number"):
            number = exact(value)
            return number is None or _bounds(flat, path).contain(number)
        if kind == "string":
            if "pattern" in flat or "format" in flat:
                raise refuse(
                    "pattern" if "pattern" in flat else "format", path, "stands beside enum, which says enough"
                )
            return bool(flat.get("minLength", 0) <= len(value) <= flat.get("maxLength", len(value)))
        beside = {"object": ("properties", "required", "additionalProperties"), "array": ("items", "prefixItems")}
        for key in beside.get(kind, ()):
            if key in flat:
                raise refuse(key, path, "stands beside enum, which says enough")
        return True

    def _string(self, flat: Flat, path: str) -> str | None:
        least, most = flat.get("minLength", 0), flat.get("maxLength")
        if most is not None and most < least:
            return None
        if "format" in flat:
            return self._format(flat, least, most, path)
        if "pattern" in flat:
            try:
                return f'"\\"" {pattern_rule(flat["pattern"], least, most, "char")} "\\""'
            except UnsupportedPatternError as error:
                raise refuse("pattern", path, f"cannot be kept to: {error}") from error
        if least == 0 and most is None:
            return "string"
        return f'"\\"" {times("char", *_counts(least, most, "minLength", path))} "\\""'

    def _format(self, flat: Flat, least: int, most: int | None, path: str) -> str:
        name = flat["format"]
        found = FORMATS.get(name)
        if found is None:
            raise refuse("format", path, f"cannot be kept to: {name}", f"one of {', '.join(FORMATS)}, or a pattern")
        if "pattern" in flat:
            raise refuse("pattern", path, "stands beside a format")
        if found.least < least or (most is not None and (found.most is None or found.most > most)):
            raise refuse("minLength or maxLength", path, f"stands beside the format {name}")
        return f'"\\"" ({found.expression}) "\\""'

    def _array(self, flat: Flat, name: str, path: str) -> str | None:
        least, most = flat.get("minItems", 0), flat.get("maxItems")
        if not any(key in flat for key in ("items", "prefixItems", "minItems", "maxItems")):
            return "array"
        first = [item_at(flat, at) for at in range(len(flat.get("prefixItems", ())))][:most]
        # what nothing satisfies ends the array
        for at, schema in enumerate(first):
            if not self._schemas.flatten(schema, f"{path}/prefixItems/{at}"):
                first, most = first[:at], at
        rest = flat.get("items", True)
        if most is None and rest is not True and not self._schemas.flatten(rest, f"{path}/items"):
            most = len(first)
        if "items" not in flat and first:  # nobody asked for more
            most = max(least, len(first)) if most is None else min(most, max(least, len(first)))
        if most is not None and most < least:
            return None
        rules = [self._rule(schema, f"{name}-{at}", f"{path}/prefixItems/{at}") for at, schema in enumerate(first)]
        if most == len(rules):
            return f'"[" space {f" {_COMMA} ".join(rules)} space "]"'
        counts = _counts(max(0, least - len(rules)), None if most is None else most - len(rules), "minItems", path)
        item = self._rule(rest, f"{name}-item", f"{path}/items")
        return f'"[" space {list_of(rules, item, counts, _COMMA)} space "]"'

    def _object(self, flat: Flat, name: str, path: str) -> str | None:
        if not any(key in flat for key in ("properties", "required", "additionalProperties", *_PROPERTY_COUNTS)):
            return "object"
        properties = dict(flat.get("properties", {}))
        others = flat.get("additionalProperties", bool(not properties and "maxProperties" not in flat))
        required = [str(key) for key in flat.get("required", ())]
        for key in required:
            properties.setdefault(key, flat.get("additionalProperties", True))
        possible = {
            key: schema
            for key, schema in properties.items()
            if self._schemas.flatten(schema, f"{path}/properties/{key}")
        }
        if any(key not in possible for key in required):
            return None
        self._check_counts(flat, required, list(possible), others, path)
        pairs = {
            key: self._add(
                f"{name}-{key}-pair",
                f"{literal(_dump(key))} {_COLON} {self._rule(schema, f'{name}-{key}', f'{path}/properties/{key}')}",
            )
            for key, schema in possible.items()
        }
        more = None
        if others is not False and self._schemas.flatten(others, f"{path}/additionalProperties"):
            value = self._rule(others, f"{name}-more", f"{path}/additionalProperties")
            key_rule = self._add(f"{name}-key", self._other_key(list(properties)))
            more = self._add(f"{name}-more-pair", f"{key_rule} {_COLON} {value}")
        return f'"{{" space {self._members(list(possible), set(required), pairs, more, name)} space "}}"'

    def _check_counts(self, flat: Flat, required: list[str], named: list[str], others: Any, path: str) -> None:
        if flat.get("minProperties", 0) > len(required):
            raise refuse("minProperties", path, "can be kept to only where as many are required")
        if flat.get("maxProperties", len(named)) < len(named) or ("maxProperties" in flat and others is not False):
            raise refuse("maxProperties", path, "can be kept to only where no more are named")

    def _members(self, names: list[str], required: set[str], pairs: dict[str, str], more: str | None, hint: str) -> str:
        """Return the properties in their order, each that is not required there or not, commas between them.

        Two rules for each place: something stands before it, or nothing does.
        """
        after = f"({_COMMA} {more})*" if more else ""
        fresh = f"({more} ({_COMMA} {more})*)?" if more else ""
        for name in reversed(names):
            pair = pairs[name]
            if name in required:
                after, fresh = f"{_COMMA} {pair} {after}", f"{pair} {after}"
                continue
            rest_after = self._add(f"{hint}-rest", after or '""')
            rest_fresh = self._add(f"{hint}-rest", fresh or '""')
            after = f"({_COMMA} {pair})? {rest_after}"
            fresh = f"({pair} {rest_after} | {rest_fresh})"
        return fresh

    def _other_key(self, names: list[str]) -> str:
        """Return an expression for names that are none of these, without escapes so that they can be compared."""
        keys = [_dump(name)[1:-1] for name in names]
        return f'"\\"" {self._none_of([key for key in keys if _BACKSLASH not in key])} "\\""'

    def _none_of(self, words: list[str]) -> str:
        """Return an expression for every text of plain characters but these words: a rule for each letter of them."""
        heads: dict[str, list[str]] = {}
        for word in filter(None, words):
            heads.setdefault(word[0], []).append(word[1:])
        if not heads:
            return "plain+" if words else "plain*"
        options = [f"{literal(head)} {self._add('key', self._none_of(rest))}" for head, rest in heads.items()]
        options.append(f"{_but(heads)} plain*")
        return f"({' | '.join(options)})" + ("" if "" in words else "?")


def _counts(least: int, most: int | None, keyword: str, path: str) -> tuple[int, int | None]:
    """Return bounds that llama.cpp can count to: fewer at most, if need be; raises UsageError for more at least."""
    if least > MOST:
        raise refuse(keyword, path, f"is {least:,}: at most {MOST:,} can be counted")
    return least, None if most is None else min(most, MOST)


def _bounds(flat: Flat, path: str) -> Bounds:
    found: dict[str, Decimal | None] = {}
    for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        found[key] = exact(flat[key]) if key in flat else None
        if key in flat and found[key] is None:
            raise refuse(key, path, f"is no number that can be kept to: {str(flat[key])[:40]}")
    least, open_least = found["minimum"], found["exclusiveMinimum"]
    most, open_most = found["maximum"], found["exclusiveMaximum"]
    open_below = open_least is not None and (least is None or open_least >= least)
    open_above = open_most is not None and (most is None or open_most <= most)
    return Bounds(open_least if open_below else least, open_most if open_above else most, open_below, open_above)


def _dump(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, TypeError) as error:
        raise UsageError("the schema has a value that is no text or number of JSON") from error
    return text


def _but(heads: Iterable[str]) -> str:
    """Return a class of all plain characters but these."""
    return class_of([*heads, '"', _BACKSLASH, *map(chr, (*range(0x20), *range(0x7F, 0xA0)))], negated=True)
