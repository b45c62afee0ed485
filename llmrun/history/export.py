"""A conversation as text for elsewhere: Markdown to read, and JSON that can be read again. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Literal, get_args

from llmrun.errors import UsageError
from llmrun.history.record import ROLES, Figure, Saved, Setting, Turn, check_name, is_id

Form = Literal["md", "json"]
FORMS: tuple[Form, ...] = get_args(Form)
FORMAT = 1
_TITLE = 72  # characters
_HINT = "`llmrun history export ID json` writes one"


def figures(saved: Saved) -> dict[str, object]:
    """Return a conversation as plain values; times are ISO 8601 in UTC."""
    return {
        "format": FORMAT,
        "id": saved.id,
        "name": saved.name,
        "model": saved.model,
        "resolved": saved.resolved,
        "system": saved.system,
        "settings": dict(saved.settings),
        "created": saved.created.isoformat(),
        "updated": saved.updated.isoformat(),
        "turns": [_turn_figures(turn) for turn in saved.turns],
    }


def _turn_figures(turn: Turn) -> dict[str, object]:
    return {
        "role": turn.role,
        "content": turn.content,
        "thoughts": turn.thoughts,
        "images": list(turn.images),
        "model": turn.model,
        "finish_reason": turn.finish_reason,
        "usage": dict(turn.usage),
        "at": None if turn.at is None else turn.at.isoformat(),
    }


def format_json(saved: Saved) -> str:
    """Write a conversation so that parse_conversation reads the same."""
    return json.dumps(figures(saved), indent=1, ensure_ascii=False) + "\n"


def parse_conversation(text: str) -> Saved:
    """Read what format_json wrote; raises UsageError for what it cannot have written."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("the conversation is no JSON", _HINT) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"this is no conversation of format {FORMAT}", _HINT)
    fields = _Fields(content)
    turns = content.get("turns")
    if not isinstance(turns, list):
        raise _wrong("turns", turns)
    name = fields.text_or_none("name")
    if not is_id(fields.text("id")):
        raise _wrong("id", fields.text("id"))
    return Saved(
        fields.text("id"),
        None if name is None else check_name(name),
        fields.text("model"),
        fields.text_or_none("resolved"),
        fields.text_or_none("system"),
        fields.settings("settings"),
        fields.moment("created"),
        fields.moment("updated"),
        tuple(_turn(turn) for turn in turns),
    )


def _turn(content: object) -> Turn:
    fields = _Fields(content)
    if fields.text("role") not in ROLES:
        raise _wrong("role", fields.text("role"))
    return Turn(
        fields.text("role"),
        fields.text("content"),
        fields.text("thoughts"),
        fields.texts("images"),
        fields.text_or_none("model"),
        fields.text_or_none("finish_reason"),
        fields.usage("usage"),
        None if fields.is_none("at") else fields.moment("at"),
    )


class _Fields:
    """The fields of an object; each raises UsageError for what it cannot be."""

    def __init__(self, content: object) -> None:
        if not isinstance(content, dict):
            raise _wrong("turn", content)
        self._content = content

    def is_none(self, name: str) -> bool:
        return self._content.get(name) is None

    def text(self, name: str) -> str:
        value = self._content.get(name)
        if not isinstance(value, str):
            raise _wrong(name, value)
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self.is_none(name) else self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._content.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _wrong(name, value)
        return tuple(value)

    def settings(self, name: str) -> dict[str, Setting]:
        value = self._content.get(name)
        if not isinstance(value, dict) or any(isinstance(item, dict | list) for item in value.values()):
            raise _wrong(name, value)
        return value

    def usage(self, name: str) -> dict[str, Figure]:
        value = self._content.get(name)
        if not isinstance(value, dict) or any(
            isinstance(item, bool) or not isinstance(item, int | float | None) for item in value.values()
        ):
            raise _wrong(name, value)
        return value

    def moment(self, name: str) -> datetime:
        try:
            found = datetime.fromisoformat(self.text(name))
            return found.astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise _wrong(name, self.text(name)) from error


def _wrong(name: str, value: object) -> UsageError:
    return UsageError(f"the conversation has {str(value)[:40]!r} for its {name}, which cannot be", _HINT)


def format_markdown(saved: Saved) -> str:
    """Write a conversation to read; thoughts are folded away where Markdown is shown as HTML."""
    parts = [f"# {_heading(saved)}", _origin(saved)]
    if saved.system:
        parts += ["## System", saved.system.strip("\n")]
    for turn in saved.turns:
        parts += _turn_parts(turn, saved.model)
    return "\n\n".join(parts) + "\n"


def _heading(saved: Saved) -> str:
    title = " ".join(saved.title.split())
    return title if len(title) <= _TITLE else title[: _TITLE - 1].rstrip() + "…"


def _origin(saved: Saved) -> str:
    model = saved.model if saved.resolved in (None, saved.model) else f"{saved.model} ({saved.resolved})"
    return f"{saved.id} · {model} · {saved.created:%Y-%m-%d %H:%M} UTC"


def _turn_parts(turn: Turn, model: str) -> list[str]:
    parts = ["## You" if turn.role == "user" else f"## {turn.model or model}"]
    parts += [f"![]({image})" for image in turn.images]
    if turn.thoughts.strip():
        parts += ["<details><summary>thoughts</summary>", turn.thoughts.strip("\n"), "</details>"]
    return [*parts, turn.content.strip("\n")]
