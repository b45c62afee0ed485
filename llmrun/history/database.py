"""The file of kept conversations: one SQLite database, of this user alone, for any number of processes at once.

Knows the tables, how they came to be, and what is done with a file that is none of ours; must not know what is asked
of them. WAL (https://sqlite.org/wal.html) lets others read while one writes; `synchronous` stays FULL, SQLite's
default, so that what was committed survives a power cut too.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from llmrun.errors import HistoryError

T = TypeVar("T")
Action = Callable[[sqlite3.Connection], T]

_APPLICATION_ID = 0x6C6C6D72  # "llmr": tells our file from any other program's
_PATIENCE = 5.0  # seconds to wait for another process, whose transactions take milliseconds
_ASIDE = ".damaged-"  # in the names of files that were set aside, before the time
_OURS_ALONE, _FOLDER_OURS_ALONE = 0o600, 0o700

# Each makes the next version of the tables; what is here never changes, more is added below.
_MIGRATIONS = (
    (
        """CREATE TABLE conversations (
            id TEXT PRIMARY KEY NOT NULL, name TEXT COLLATE NOCASE UNIQUE, model TEXT NOT NULL, resolved TEXT,
            system TEXT, settings TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL)""",
        "CREATE INDEX conversations_updated ON conversations (updated)",
        """CREATE TABLE turns (
            id INTEGER PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
            position INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL, thoughts TEXT NOT NULL,
            images TEXT NOT NULL, model TEXT, finish_reason TEXT, usage TEXT NOT NULL, at TEXT NOT NULL,
            UNIQUE (conversation, position))""",
    ),
)
# The index of words. The triggers stand for it: where they are missing, a SQLite without FTS5 wrote in between.
_INDEX = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 ("
    "content, content='turns', content_rowid='id', tokenize='unicode61 remove_diacritics 2')",
    "CREATE TRIGGER turns_added AFTER INSERT ON turns BEGIN "
    "INSERT INTO words (rowid, content) VALUES (new.id, new.content); END",
    "CREATE TRIGGER turns_removed AFTER DELETE ON turns BEGIN "
    "INSERT INTO words (words, rowid, content) VALUES ('delete', old.id, old.content); END",
    "INSERT INTO words (words) VALUES ('rebuild')",
)


class Database:
    """An open database. path: None is in memory, and leaves no trace.

    tell: hears that a file was no database of ours, or damaged, and was set aside. index: whether words are to be
    indexed where SQLite can. Raises HistoryError where it cannot be opened.
    """

    def __init__(self, path: Path | None, tell: Callable[[str], None], *, index: bool = True) -> None:
        self._path, self._tell, self._index = path, tell, index
        self.has_words = False
        self._file: tuple[int, int] | None = None
        self._connection = self._open()

    @property
    def leaves_trace(self) -> bool:
        """Whether any of it is there afterwards."""
        return self._path is not None

    def read(self, action: Action[T]) -> T:
        """Return what an action reads, all of it as it was at one moment. Raises HistoryError."""
        return self._run("BEGIN", action)

    def write(self, action: Action[T]) -> T:
        """Do an action whole or not at all. Raises HistoryError, and what the action raises."""
        return self._run("BEGIN IMMEDIATE", action)

    def clean(self) -> None:
        """Take what was removed out of the index and the log too, as far as others let us."""
        with contextlib.suppress(sqlite3.Error):
            if self.has_words:
                self._connection.execute("INSERT INTO words (words) VALUES ('optimize')")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close it; nothing waits to be written."""
        self._connection.close()

    def _run(self, begin: str, action: Action[T]) -> T:
        try:
            return self._transact(begin, action)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise self._failure(error) from error
            self._connection.close()
        self._set_aside()
        self._connection = self._open()
        try:
            return self._transact(begin, action)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _transact(self, begin: str, action: Action[T]) -> T:
        with _transaction(self._connection, begin):
            return action(self._connection)

    def _open(self) -> sqlite3.Connection:
        if self._path is None:
            return self._prepared(sqlite3.connect(":memory:", isolation_level=None))
        try:
            _make_file(self._path)
        except OSError as error:
            return self._open_to_read(self._path, error)
        try:
            return self._connect(self._path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise self._failure(error) from error
        self._set_aside()
        try:
            _make_file(self._path)
            return self._connect(self._path)
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error

    def _connect(self, path: Path) -> sqlite3.Connection:
        self._file = _identity(path)
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
        try:
            return self._prepared(connection)
        except BaseException:
            connection.close()
            raise

    def _open_to_read(self, path: Path, reason: OSError) -> sqlite3.Connection:
        """Open what is there, where nothing can be written: `immutable`, as no log can be made beside it either."""
        if not os.access(path, os.R_OK):
            raise self._failure(reason) from reason
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
        try:
            self._check_version(connection)
            self.has_words = _has_triggers(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise self._failure(error) from error
            raise
        return connection

    def _prepared(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # what is removed is overwritten
        connection.execute("PRAGMA temp_store = MEMORY")
        self._check_version(connection)
        with contextlib.suppress(sqlite3.OperationalError):  # another process makes it so at this moment
            connection.execute("PRAGMA journal_mode = WAL")
        wanted = self._index and _has_fts5(connection)
        if not _is_ready(connection, wanted):
            with _transaction(connection, "BEGIN IMMEDIATE"):
                _migrate(connection)
                _keep_index(connection, wanted)
        self.has_words = wanted
        return connection

    def _check_version(self, connection: sqlite3.Connection) -> None:
        """Raise HistoryError for tables of a later llmrun, sqlite3.DatabaseError for those of another program."""
        with _transaction(connection, "BEGIN"):  # all at one moment: another process may be making the tables
            (owner,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (n_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if n_tables and owner != _APPLICATION_ID:
            raise _ForeignError("these are another program's tables")
        if version > len(_MIGRATIONS):
            raise HistoryError(
                f"the conversations in {self._path} were kept by a later llmrun", "update llmrun, or use --no-history"
            )

    def _set_aside(self) -> None:
        """Move the file away, and tell; one that another process has replaced already is left alone."""
        assert self._path is not None  # memory is not damaged
        if self._file is None or _identity(self._path) != self._file:
            return
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        kept = self._path.with_name(f"{self._path.stem}{_ASIDE}{moment}{self._path.suffix}")
        try:
            self._path.replace(kept)
            for ending in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    _beside(self._path, ending).replace(_beside(kept, ending))
        except OSError as error:
            raise self._failure(error) from error
        self._tell(f"the kept conversations could not be read, and lie in {kept} now; new ones are kept from here on")

    def _failure(self, error: Exception) -> HistoryError:
        what = error.strerror if isinstance(error, OSError) else str(error)
        return HistoryError(
            f"the conversations in {self._path} cannot be read or kept: {what}",
            "--no-history keeps none, and asks none",
        )


def set_aside_files(path: Path) -> tuple[Path, ...]:
    """Return the files that were set aside in the place of this one, the oldest first."""
    return tuple(sorted(path.parent.glob(f"{path.stem}{_ASIDE}*{path.suffix}")))


class _ForeignError(sqlite3.DatabaseError):
    pass


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # what went wrong is being raised; it may have ended this already
            connection.execute("ROLLBACK")
        raise


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for statements in _MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _is_ready(connection: sqlite3.Connection, wanted: bool) -> bool:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return bool(version == len(_MIGRATIONS)) and _has_triggers(connection) == wanted


def _keep_index(connection: sqlite3.Connection, wanted: bool) -> None:
    """Make the index of words right, or see that nothing writes into it."""
    if not wanted:
        for trigger in ("turns_added", "turns_removed"):
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    elif not _has_triggers(connection):
        for statement in _INDEX:
            connection.execute(statement)


def _has_fts5(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone() is not None


def _has_triggers(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'turns_added'").fetchone() is not None


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Tell what waiting and retrying will not repair from a disk that is full or a database that is busy."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extension
    return isinstance(error, _ForeignError) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _make_file(path: Path) -> None:
    """Make folder and file, or make sure that they are its owner's alone; SQLite's files beside it follow suit."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=_FOLDER_OURS_ALONE)
    if path.parent.stat().st_mode & 0o077:
        path.parent.chmod(_FOLDER_OURS_ALONE)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, _OURS_ALONE))
    if path.stat().st_mode & 0o077:
        path.chmod(_OURS_ALONE)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
