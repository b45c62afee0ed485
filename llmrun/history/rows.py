"""Conversations as rows of the tables, and back. Each function is a part of a transaction that its caller made."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from llmrun.history.finding import clean, like_of
from llmrun.history.record import Saved, Summary, Turn, new_id

Connection = sqlite3.Connection

# 400 characters of a first message are more than any list shows
_SUMMARY = """
SELECT c.id, c.name, c.model, c.created, c.updated,
    (SELECT count(*) FROM turns t WHERE t.conversation = c.id),
    (SELECT substr(content, 1, 400) FROM turns t WHERE t.conversation = c.id ORDER BY position LIMIT 1) AS first
FROM conversations c"""


def insert(connection: Connection, saved: Saved) -> None:
    """Keep a conversation; without its name, where that is taken."""
    name = saved.name if saved.name is None or id_of_name(connection, saved.name) is None else None
    connection.execute(
        "INSERT INTO conversations (id, name, model, resolved, system, settings, created, updated) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        _head_values(replace(saved, name=name)),
    )
    _insert_turns(connection, saved.id, 0, saved.turns)


def insert_other(connection: Connection, saved: Saved) -> str:
    """Keep a conversation from elsewhere under its id, or a new one; the one that is there, where it is the same."""
    here = load(connection, saved.id)
    if here is not None:
        if here == saved:
            return here.id
        saved = replace(saved, id=new_id())
    insert(connection, saved)
    return saved.id


def append(connection: Connection, key: str, turns: Iterable[Turn]) -> bool:
    """Add turns; returns False where there is no such conversation."""
    if not _touch(connection, key):
        return False
    (position,) = connection.execute(
        "SELECT coalesce(max(position) + 1, 0) FROM turns WHERE conversation = ?", (key,)
    ).fetchone()
    _insert_turns(connection, key, position, turns)
    return True


def replace_turns(connection: Connection, key: str, turns: tuple[Turn, ...]) -> bool:
    """Let these be its turns; those at the beginning that are so already are left; False where there is none such."""
    kept = _turns(connection, key)
    same = 0
    while same < min(len(kept), len(turns)) and _is_same(kept[same], turns[same]):
        same += 1
    connection.execute("DELETE FROM turns WHERE conversation = ? AND position >= ?", (key, same))
    return append(connection, key, turns[same:])


def change_head(connection: Connection, key: str, change: Callable[[Saved], Saved]) -> bool:
    """Change what there is beside the turns; returns False where there is no such conversation."""
    saved = head(connection, key)
    if saved is None:
        return False
    connection.execute(
        "UPDATE conversations SET id = ?, name = ?, model = ?, resolved = ?, system = ?, settings = ?, created = ?, "
        "updated = ? WHERE id = ?",
        (*_head_values(change(saved)), key),
    )
    return True


def delete(connection: Connection, key: str) -> bool:
    """Remove a conversation with its turns; returns False where there is none."""
    return connection.execute("DELETE FROM conversations WHERE id = ?", (key,)).rowcount == 1


def id_of_name(connection: Connection, name: str) -> str | None:
    """Return whose name it is, in any case of its letters."""
    found = connection.execute("SELECT id FROM conversations WHERE name = ?", (clean(name),)).fetchone()
    return None if found is None else found[0]


def latest(connection: Connection) -> Saved | None:
    """Return the conversation that was last added to."""
    found = connection.execute("SELECT id FROM conversations ORDER BY updated DESC, id LIMIT 1").fetchone()
    return None if found is None else load(connection, found[0])


def head(connection: Connection, key: str) -> Saved | None:
    """Return a conversation without its turns, None where there is none."""
    row = connection.execute(
        "SELECT id, name, model, resolved, system, settings, created, updated FROM conversations WHERE id = ?", (key,)
    ).fetchone()
    if row is None:
        return None
    _, name, model, resolved, system, settings, *times = row
    created, updated = map(datetime.fromisoformat, times)
    return Saved(key, name, model, resolved, system, json.loads(settings), created, updated, ())


def load(connection: Connection, key: str) -> Saved | None:
    """Return a conversation, None where there is none."""
    found = head(connection, key)
    return None if found is None else replace(found, turns=_turns(connection, key))


def summaries(connection: Connection, limit: int | None, query: str | None) -> tuple[Summary, ...]:
    """Return conversations, the last added to first; query: what is in id, name, model or first message."""
    found = connection.execute(
        f"SELECT * FROM ({_SUMMARY}) WHERE ?1 IS NULL OR id LIKE ?1 ESCAPE '\\' OR name LIKE ?1 ESCAPE '\\' "  # noqa: S608
        "OR model LIKE ?1 ESCAPE '\\' OR first LIKE ?1 ESCAPE '\\' ORDER BY updated DESC, id LIMIT ?2",
        (None if query is None else like_of(query.strip()), -1 if limit is None else limit),
    )
    return tuple(_summary(row) for row in found)


def count(connection: Connection) -> int:
    """Return how many conversations there are."""
    (found,) = connection.execute("SELECT count(*) FROM conversations").fetchone()
    return int(found)


def summary(connection: Connection, key: str) -> Summary:
    """Return a conversation that is there, for a list."""
    return _summary(connection.execute(f"{_SUMMARY} WHERE c.id = ?", (key,)).fetchone())


def _summary(row: tuple[Any, ...]) -> Summary:
    key, name, model, created, updated, n_turns, first = row
    return Summary(
        key, name, model, datetime.fromisoformat(created), datetime.fromisoformat(updated), n_turns, first or ""
    )


def _turns(connection: Connection, key: str) -> tuple[Turn, ...]:
    found = connection.execute(
        "SELECT role, content, thoughts, images, model, finish_reason, usage, at FROM turns "
        "WHERE conversation = ? ORDER BY position",
        (key,),
    )
    return tuple(_turn(*row) for row in found)


def _turn(role: str, content: str, thoughts: str, images: str, *rest: Any) -> Turn:
    model, finish_reason, usage, at = rest
    return Turn(
        role,
        content,
        thoughts,
        tuple(json.loads(images)),
        model,
        finish_reason,
        json.loads(usage),
        datetime.fromisoformat(at),
    )


def _is_same(kept: Turn, turn: Turn) -> bool:
    """Tell whether a turn is the one that is kept; one without a time was not said anew."""
    return kept == (replace(turn, at=kept.at) if turn.at is None else turn)


def _insert_turns(connection: Connection, key: str, position: int, turns: Iterable[Turn]) -> None:
    now = datetime.now(UTC)
    connection.executemany(
        "INSERT INTO turns (conversation, position, role, content, thoughts, images, model, finish_reason, usage, at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                key,
                index,
                turn.role,
                clean(turn.content),
                clean(turn.thoughts),
                _json(list(turn.images)),
                _text_or_none(turn.model),
                turn.finish_reason,
                _json(turn.usage),
                _time(turn.at or now),
            )
            for index, turn in enumerate(turns, position)
        ],
    )


def _head_values(saved: Saved) -> tuple[str | None, ...]:
    return (
        saved.id,
        _text_or_none(saved.name),
        clean(saved.model),
        _text_or_none(saved.resolved),
        _text_or_none(saved.system),
        _json(saved.settings),
        _time(saved.created),
        _time(saved.updated),
    )


def _touch(connection: Connection, key: str) -> bool:
    now = _time(datetime.now(UTC))
    return connection.execute("UPDATE conversations SET updated = ? WHERE id = ?", (now, key)).rowcount == 1


def _text_or_none(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _json(value: object) -> str:
    return json.dumps(value)


def _time(moment: datetime) -> str:
    """A moment as a text that sorts as moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
