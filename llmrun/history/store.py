"""Conversations that are kept: begun, added to, found again, removed.

    store = open_store()
    id = store.begin("qwen3:8b", system="Be brief.")
    store.add(id, Turn("user", "hi"), Turn("assistant", "Hello."))

What is kept ends with an answer: a question waits in memory for its own, so there is no empty conversation, and a crash
loses nothing that was answered. Every call is one small transaction.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from llmrun.errors import HistoryError, LLMRunError, NotFoundError, UsageError
from llmrun.folders import history_file
from llmrun.history import rows
from llmrun.history.database import Database
from llmrun.history.record import Hit, Saved, Setting, Summary, Turn, check_name, is_id, new_id
from llmrun.history.searching import search

_MIN_PREFIX = 3  # letters of an id that may stand for it
_LIST = "`llmrun history` lists them"


class Store:
    """Kept conversations. tell: hears once of what could not be kept, and the chat goes on; None raises HistoryError.

    Used by one thread. Explicit wishes (rename, delete, find, list, search) raise whether or not there is a `tell`.
    """

    def __init__(self, database: Database, tell: Callable[[str], None] | None = None) -> None:
        self._database, self._tell, self._told = database, tell, False
        self._drafts: dict[str, Saved] = {}  # begun, and nothing kept of them yet
        self._waiting: dict[str, tuple[Turn, ...]] = {}  # what was said and not yet kept, until it is answered
        self._behind: dict[str, tuple[Turn, ...]] = {}  # all that was said, where what is kept could not be replaced

    @property
    def leaves_trace(self) -> bool:
        """Whether what is kept is there afterwards."""
        return self._database.leaves_trace

    def begin(
        self,
        model: str,
        system: str | None = None,
        resolved: str | None = None,
        settings: Mapping[str, Setting] | None = None,
    ) -> str:
        """Return the id of a new conversation, of which nothing is kept before the first answer.

        model: as the user named it; resolved: what that was. An id is not asked for whether it is taken: of 10,000
        conversations, one in 400,000 new ones would meet its like.
        """
        now = datetime.now(UTC)
        draft = Saved(new_id(), None, model, resolved, system, dict(settings or {}), now, now, ())
        self._drafts[draft.id] = draft
        return draft.id

    def add(self, key: str, *turns: Turn) -> None:
        """Keep what was said; a question waits for its answer."""
        if key in self._behind:
            self.replace_turns(key, (*self._behind[key], *map(_now, turns)))
            return
        ready, rest = _answered((*self._waiting.get(key, ()), *map(_now, turns)))
        is_kept = not ready or self._keep(lambda: self._append(key, ready))
        self._waiting[key] = rest if is_kept else (*ready, *rest)  # what could not be kept is, with the next answer

    def replace_turns(self, key: str, turns: tuple[Turn, ...]) -> None:
        """Let these be all that was said: after turns were taken back, changed or answered anew.

        Where no answer is left, the conversation is not kept any more until there is one again.
        """
        if key in self._drafts:
            self._waiting[key] = ()
            self.add(key, *turns)
            return
        ready, rest = _answered(turns)
        is_kept = self._keep(lambda: self._replace(key, ready) if ready else self._withdraw(key))
        self._waiting[key] = rest
        self._behind.pop(key, None)
        if not is_kept:
            self._behind[key] = turns

    def set_system(self, key: str, system: str | None) -> None:
        """Keep another system message."""
        self._change(key, lambda saved: replace(saved, system=system))

    def set_model(self, key: str, model: str, resolved: str | None = None) -> None:
        """Keep that another model answers from here on."""
        self._change(key, lambda saved: replace(saved, model=model, resolved=resolved))

    def set_settings(self, key: str, settings: Mapping[str, Setting]) -> None:
        """Keep other settings."""
        self._change(key, lambda saved: replace(saved, settings=dict(settings)))

    def rename(self, key: str, name: str | None) -> None:
        """Give a conversation a name, or take it away; raises UsageError for one that is taken or can be none."""
        name = None if name is None else check_name(name)
        draft = self._drafts.get(key)
        if draft is not None:
            self._database.read(lambda c: _check_free(c, key, name))
            self._drafts[key] = replace(draft, name=name)
            return

        def give(connection: rows.Connection) -> bool:
            _check_free(connection, key, name)
            return rows.change_head(connection, key, lambda saved: replace(saved, name=name))

        if not self._database.write(give):
            raise _removed(key)

    def latest(self) -> Saved | None:
        """Return the conversation that was last added to, None where there is none."""
        return self._database.read(rows.latest)

    def find(self, name_or_id: str) -> Saved:
        """Return a conversation by its id, its name, or how its id begins; raises NotFoundError, with what is close."""
        return self._database.read(lambda c: _found(rows.load(c, _id_of(c, name_or_id.strip())), name_or_id))

    def list(self, limit: int | None = None, query: str | None = None) -> tuple[Summary, ...]:
        """Return conversations, the last added to first; query: what is in id, name, model or first message."""
        return self._database.read(lambda c: rows.summaries(c, limit, query))

    def count(self) -> int:
        """Return how many conversations are kept."""
        return self._database.read(rows.count)

    def search(self, words: str, limit: int | None = None) -> tuple[Hit, ...]:
        """Return conversations in which every word occurs, or begins one that does; the best first."""
        return self._database.read(lambda c: search(c, words, limit, indexed=self._database.has_words))

    def insert(self, saved: Saved) -> str:
        """Keep a conversation from elsewhere; returns its id, which is another where its own is taken.

        One that is here already is not kept twice; a name that is taken is left out. Raises UsageError where it has no
        answer.
        """
        if not _answered(saved.turns)[0]:
            raise UsageError("the conversation has no answer", "what `llmrun history export ID json` wrote has one")
        return self._database.write(lambda c: rows.insert_other(c, saved))

    def delete(self, *ids: str) -> None:
        """Remove conversations, so that their words are gone from the file; raises NotFoundError, and removes none."""

        def remove(connection: rows.Connection) -> None:
            for key in ids:
                if not rows.delete(connection, key):
                    raise _removed(key)

        self._database.write(remove)
        self._database.clean()

    def close(self) -> None:
        """Close it; nothing waits to be written but questions without an answer."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, key: str, turns: tuple[Turn, ...]) -> None:
        draft = self._drafts.get(key)
        if draft is not None:
            saved = replace(draft, updated=datetime.now(UTC), turns=turns)
            self._database.write(lambda c: rows.insert(c, saved))
            del self._drafts[key]
        elif not self._database.write(lambda c: rows.append(c, key, turns)):
            raise _removed(key)

    def _replace(self, key: str, turns: tuple[Turn, ...]) -> None:
        if not self._database.write(lambda c: rows.replace_turns(c, key, turns)):
            raise _removed(key)

    def _withdraw(self, key: str) -> None:
        """Take a conversation back to where nothing of it was kept."""

        def take(connection: rows.Connection) -> Saved:
            saved = _found(rows.head(connection, key), key)
            rows.delete(connection, key)
            return saved

        self._drafts[key] = self._database.write(take)

    def _change(self, key: str, change: Callable[[Saved], Saved]) -> None:
        if key in self._drafts:
            self._drafts[key] = change(self._drafts[key])
        else:
            self._keep(lambda: self._change_kept(key, change))

    def _change_kept(self, key: str, change: Callable[[Saved], Saved]) -> None:
        if not self._database.write(lambda c: rows.change_head(c, key, change)):
            raise _removed(key)

    def _keep(self, action: Callable[[], None]) -> bool:
        """Do what keeps something; returns whether it was done."""
        try:
            action()
        except (HistoryError, NotFoundError) as error:
            if self._tell is None:
                raise
            if not self._told:
                self._tell(_not_kept(error))
            self._told = True
            return False
        return True


def open_store(path: Path | None = None, tell: Callable[[str], None] | None = None, *, index: bool = True) -> Store:
    """Open this user's conversations, making the file where there is none.

    tell: for a chat, which must go on whatever is wrong with the file: it hears what is, and nothing is raised by
    opening or keeping. Without it, HistoryError is raised. path: of the file, None is its usual place. index: see
    Database. A file that is damaged or another program's is set aside.
    """
    try:
        return Store(Database(path or history_file(), tell or (lambda _: None), index=index), tell)
    except HistoryError as error:
        if tell is None:
            raise
        tell(_not_kept(error))
        return no_history()


def read_store(path: Path | None = None, tell: Callable[[str], None] = lambda _: None, *, make: bool = False) -> Store:
    """Open conversations for a command about them, which fails where they cannot be had: raises HistoryError.

    tell: hears where a file was set aside. make: whether to make the file where there is none.
    """
    path = path or history_file()
    return Store(Database(path, tell)) if make or not _is_missing(path) else no_history()


def no_history() -> Store:
    """Return a store in memory: what is kept in it is there as long as it is, and leaves no trace."""
    return Store(Database(None, lambda _: None))


def _now(turn: Turn) -> Turn:
    return turn if turn.at is not None else replace(turn, at=datetime.now(UTC))


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # opening it will tell more
    return False


def _answered(turns: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """Split what was said behind the last answer."""
    last = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    return turns[: last + 1], turns[last + 1 :]


def _check_free(connection: rows.Connection, key: str, name: str | None) -> None:
    owner = None if name is None else rows.id_of_name(connection, name)
    if owner not in (None, key):
        raise UsageError(f"{name!r} is the name of {owner}", f"another name, or `llmrun history rm {owner}`")


def _id_of(connection: rows.Connection, text: str) -> str:
    if rows.head(connection, text) is not None:
        return text
    if (named := rows.id_of_name(connection, text)) is not None:
        return named
    known = {summary.id: summary.name for summary in rows.summaries(connection, None, None)}
    begun = [key for key in known if key.startswith(text.lower())] if len(text) >= _MIN_PREFIX else []
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise NotFoundError(f"{len(begun)} conversations begin with {text}", f"{' or '.join(begun[:3])}")
    names = {name.lower(): name for name in (*known, *known.values()) if name}
    close = [names[found] for found in difflib.get_close_matches(text.lower(), names, n=3)]
    raise NotFoundError(
        f"no conversation is called {text[:80]!r}", f"did you mean {' or '.join(close)}?" if close else _LIST
    )


def _found(saved: Saved | None, key: str) -> Saved:
    if saved is None:
        raise _removed(key)
    return saved


def _removed(key: str) -> NotFoundError:
    what = key if is_id(key) else repr(key[:80])
    return NotFoundError(f"conversation {what} is not there any more", _LIST)


def _not_kept(error: LLMRunError) -> str:
    return f"this conversation is not kept: {error.message}"
