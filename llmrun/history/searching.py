"""Conversations by the words in them: through the index where there is one, else text by text."""

from __future__ import annotations

from collections.abc import Iterable

from llmrun.history.finding import like_of, match_of, snippet, words_of
from llmrun.history.record import Hit, Summary
from llmrun.history.rows import Connection, summary


def search(connection: Connection, text: str, limit: int | None, *, indexed: bool) -> tuple[Hit, ...]:
    """Return conversations in which every word occurs, each with its best turn, the best first.

    Without an index, or where that knows nothing of it (it divides no Chinese into words), parts of words are looked
    for, and the last conversations come first.
    """
    words = words_of(text)
    if not words:
        return ()
    places = _indexed_places(connection, words) if indexed else {}
    places = places or _plain_places(connection, words)
    hits = []
    for key, turn in places.items():
        hits.append(_hit(connection, summary(connection, key), turn, words))
        if len(hits) == limit:
            break
    return tuple(hits)


def _hit(connection: Connection, summary: Summary, turn: int | None, words: tuple[str, ...]) -> Hit:
    if turn is None:
        return Hit(summary, None, snippet(summary.first, words))
    role, content = connection.execute("SELECT role, content FROM turns WHERE id = ?", (turn,)).fetchone()
    return Hit(summary, role, snippet(content, words))


def _indexed_places(connection: Connection, words: tuple[str, ...]) -> dict[str, int | None]:
    """The best turn of each conversation that has all words, by the index's own rank (BM25)."""
    query = "SELECT conversation, t.id FROM words JOIN turns t ON t.id = words.rowid WHERE words MATCH ? ORDER BY rank"
    everywhere = [{key for key, _ in connection.execute(query, (match_of(word),))} for word in words]
    ranked = connection.execute(query, (" OR ".join(match_of(word) for word in words),))
    return _places(connection, words, everywhere, ranked)


def _plain_places(connection: Connection, words: tuple[str, ...]) -> dict[str, int | None]:
    query = "SELECT conversation FROM turns WHERE content LIKE ? ESCAPE '\\'"
    patterns = [like_of(word) for word in words]
    everywhere = [{key for (key,) in connection.execute(query, (pattern,))} for pattern in patterns]
    score = " + ".join("(t.content LIKE ? ESCAPE '\\')" for _ in patterns)
    ranked = connection.execute(
        f"SELECT conversation, t.id FROM turns t JOIN conversations c ON c.id = t.conversation WHERE {score} > 0 "  # noqa: S608
        f"ORDER BY {score} DESC, c.updated DESC, position",
        (*patterns, *patterns),
    )
    return _places(connection, words, everywhere, ranked)


def _places(
    connection: Connection, words: tuple[str, ...], everywhere: list[set[str]], ranked: Iterable[tuple[str, int]]
) -> dict[str, int | None]:
    """The conversations that have every word in a turn or their name, with their best turn; names alone come first."""
    named = [
        {key for (key,) in connection.execute("SELECT id FROM conversations WHERE name LIKE ? ESCAPE '\\'", (pattern,))}
        for pattern in (like_of(word) for word in words)
    ]
    wanted = set.intersection(*(turns | names for turns, names in zip(everywhere, named, strict=True)))
    found: dict[str, int | None] = {}
    for key, turn in ranked:
        if key in wanted:
            found.setdefault(key, turn)
    return dict.fromkeys(sorted(wanted - set(found))) | found
