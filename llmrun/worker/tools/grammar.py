"""A grammar for calls of tools, where one must be called: the frame of a format around the schema of the arguments.

Pure. A schema that a grammar cannot be held to (worker.structured says which) is not refused: the call then has an
object of some kind for arguments, as it would have without a grammar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmrun.errors import UsageError
from llmrun.message import ToolChoice
from llmrun.structured.characters import class_of, literal
from llmrun.structured.convert import FIXED_RULES, rules_of
from llmrun.worker.tools.format import Style, ToolFormat
from llmrun.worker.tools.reading import types_of

Mark = Callable[[str], str]  # a mark as a part of a grammar: a text, or a token of the vocabulary

_ID = "[a-zA-Z0-9]{9}"  # of Mistral's calls
_TEXT_ENDS = "</parameter>"


def calls_grammar(
    wanted: ToolFormat, schemas: Mapping[str, Any], choice: ToolChoice, mark: Mark, answer: Any = None
) -> str:
    """Return the grammar of one call, or of several where they may be; answer: a schema that may be written instead.

    Raises UsageError for a choice that is no tool's name, and for an answer's schema that cannot be kept to.
    """
    if choice.name is not None and choice.name not in schemas:
        raise UsageError(f"the tool {choice.name!r} must be called and is not there", "name one of the tools")
    chosen = schemas if choice.name is None else {choice.name: schemas[choice.name]}
    frame = _Frame(wanted.style, mark, parallel=choice.parallel)
    rules = frame.rules(chosen)
    instead = "" if answer is None else " | answer"
    rules += "" if answer is None else rules_of(answer, "answer")
    return f"root ::= calls{instead}\n{rules}{FIXED_RULES}"


class _Frame:
    """Writes the rules of a format."""

    def __init__(self, style: Style, mark: Mark, *, parallel: bool) -> None:
        self._style = style
        self._mark = mark
        self._parallel = parallel

    def rules(self, schemas: Mapping[str, Any]) -> str:
        """Return the rules of calls of these tools."""
        lines = [f"calls ::= {self._calls()}\n", f"call ::= {' | '.join(f'call-{at}' for at in range(len(schemas)))}\n"]
        for at, (name, schema) in enumerate(schemas.items()):
            rule = f"arguments-{at}"
            lines.append(f"call-{at} ::= {self._call(name, rule)}\n")
            lines.append(_parameters(rule, schema) if self._style == "qwen_xml" else _arguments(rule, schema))
        lines.append(_text_without(_TEXT_ENDS) if self._style == "qwen_xml" else "")
        return "".join(lines)

    def _calls(self) -> str:
        """Return one call with its marks, or several."""
        mark = self._mark
        match self._style:
            case "hermes" | "qwen_xml":
                one = f'{mark("<tool_call>")} "\\n" call "\\n" {mark("</tool_call>")}'
                more = f'("\\n" {one})*' if self._parallel else ""
                return f'"\\n"{{0,2}} {one} {more}'  # such models end a thought with an empty line
            case "mistral_list":
                more = '(", " call)*' if self._parallel else ""
                return f'{mark("[TOOL_CALLS]")} " "? "[" call {more} "]"'
            case "mistral_named" | "mistral_id":
                one = f"{mark('[TOOL_CALLS]')} call"
                return f"({one})+" if self._parallel else one
            case "llama3":
                return "call"  # its template shows one at most

    def _call(self, name: str, arguments: str) -> str:
        mark = self._mark
        match self._style:
            case "hermes":
                return f'{_head(name, "arguments")} {arguments} "}}"'
            case "llama3":
                return f'{_head(name, "parameters")} {arguments} "}}"'
            case "mistral_list":
                before_id, after_id = literal(', "id": "'), literal('"}')
                return f"{_head(name, 'arguments')} {arguments} {before_id} {_ID} {after_id}"
            case "mistral_named":
                return f"{literal(name)} {mark('[ARGS]')} {arguments}"
            case "mistral_id":
                return f"{literal(name)} {mark('[CALL_ID]')} {_ID} {mark('[ARGS]')} {arguments}"
            case "qwen_xml":
                return f'{_opened("function", name)} {arguments} "</function>"'


def _head(name: str, key: str) -> str:
    return literal(f'{{"name": "{name}", "{key}": ')


def _opened(kind: str, name: str) -> str:
    return literal(f"<{kind}={name}>\n")


def _arguments(rule: str, schema: Any) -> str:
    """Return the rules of arguments as an object."""
    if not schema.get("properties") and not set(schema) - {"type", "properties", "description", "title", "$schema"}:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}  # a tool that takes none
    try:
        return rules_of({"type": "object"} | schema, rule)
    except UsageError:
        return f"{rule} ::= object\n"


def _parameters(rule: str, schema: Any) -> str:
    """Return the rules of arguments each between marks of its own, in the schema's order."""
    properties = schema.get("properties")
    required = schema.get("required", [])
    parts, rules = [], []
    for at, (name, inner) in enumerate(properties.items() if isinstance(properties, Mapping) else ()):
        value = f"{rule}-{at}"
        rules.append(_value(value, name, inner, schema))
        one = f'{_opened("parameter", name)} {value} "\\n</parameter>\\n"'
        parts.append(one if isinstance(required, list) and name in required else f"({one})?")
    body = " ".join(parts) or '""'
    return f"{rule} ::= {body}\n{''.join(rules)}"


def _value(rule: str, name: str, schema: Any, root: Any) -> str:
    types = types_of(schema, root)
    if not types or types == {"string"}:
        words = [word for word in schema.get("enum", []) if isinstance(word, str)] if isinstance(schema, dict) else []
        words += [schema["const"]] if isinstance(schema, dict) and isinstance(schema.get("const"), str) else []
        return f"{rule} ::= {' | '.join(map(literal, words)) or 'text'}\n"
    try:
        return rules_of(root, rule, f"#/properties/{name.replace('~', '~0').replace('/', '~1')}")
    except UsageError:
        return f"{rule} ::= value\n"


def _text_without(word: str) -> str:
    """Return the rules of any text in which a word does not stand, whose first letter is nowhere else in it.

    A rule for each letter of the word that has come.
    """
    first, lines = word[0], []
    for at, letter in enumerate(word):
        name = "text" if at == 0 else f"text-{at}"
        options = [f"{class_of((first, letter), negated=True)} text", f"{literal(first)} text-1", '""']
        if 0 < at < len(word) - 1:
            options.append(f"{literal(letter)} text-{at + 1}")
        lines.append(f"{name} ::= {' | '.join(options)}\n")
    return "".join(lines)
