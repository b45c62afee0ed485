"""The note that a server leaves while it runs: where it is, whose it is, and the key to give it orders with.

A file for each server, in a folder of the runtime directory that only its owner may enter. Whoever can read it is the
user that the server runs as. What is stale is removed by who finds it; what is not as private as it was made is not
believed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from llmrun.folders import servers_folder
from llmrun.hardware.process_identity import read_identity
from llmrun.private import enter_private, is_ours, read_private, write_private

_SUFFIX = ".json"
_MOST_BYTES = 1 << 20  # of a note; names of a few models take some hundred
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - listened at, not bound here


@dataclass(frozen=True, slots=True)
class ServedName:
    """A model by the name that clients ask for, and by one that means the same in every folder."""

    name: str
    lasting: str


@dataclass(frozen=True, slots=True)
class Note:
    """A server that runs. identity: see read_identity; since: seconds of the clock (time.time) when it began.

    address: "http://HOST:PORT", where this machine reaches it. key: for /llmrun/…, which nobody else knows. listens:
    where it listens, None where that is the address. ending: whether it only finishes its answers.
    """

    pid: int
    identity: str
    address: str
    key: str = field(repr=False)
    since: float
    models: tuple[ServedName, ...]
    listens: str | None = None
    ending: bool = False


def new_key() -> str:
    """Return a key that nobody can guess."""
    return secrets.token_urlsafe(32)


def reachable(host: str, port: int) -> str:
    """Return the address at which this machine reaches who listens at a host, which may be "all there are"."""
    host = _EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class LeftNote:
    """The note of this process, as long as it lies there."""

    def __init__(self, note: Note, path: Path | None) -> None:
        self._note, self._path = note, path

    @property
    def is_there(self) -> bool:
        """Whether it could be left."""
        return self._path is not None

    def end(self) -> None:
        """Let others know that the server takes no new requests."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                write_private(self._path, msgspec.json.encode(replace(self._note, ending=True)))

    def remove(self) -> None:
        """Take it away."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()


@contextmanager
def note_left(
    address: str,
    key: str,
    models: tuple[ServedName, ...],
    tell: Callable[[str], None],
    *,
    listens: str | None = None,
) -> Iterator[LeftNote]:
    """Leave a note of this process while the context lasts; where it cannot be, that is told, and nothing else."""
    pid = os.getpid()
    note = Note(pid, read_identity(pid) or "", address, key, time.time(), models, listens)
    left = LeftNote(note, _leave(note))
    if not left.is_there:
        tell("note: no other llmrun sees this server: its note cannot be left in a private folder of this user")
    try:
        yield left
    finally:
        left.remove()


def _leave(note: Note) -> Path | None:
    folder = _folder(make=True)
    if folder is None:
        return None
    path = folder / f"{note.pid}-{secrets.token_hex(8)}{_SUFFIX}"
    try:
        write_private(path, msgspec.json.encode(note))
    except OSError:
        return None
    return path


def read_notes() -> tuple[Note, ...]:
    """Return the notes of servers that run, the youngest first; notes of those that are gone are removed."""
    folder = _folder()
    if folder is None:
        return ()
    notes = []
    for path in folder.glob(f"*{_SUFFIX}"):
        note = _read(path)
        if note is None:
            continue
        if note.identity and read_identity(note.pid) == note.identity:
            notes.append(note)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return tuple(sorted(notes, key=lambda note: note.since, reverse=True))


def is_running(note: Note) -> bool:
    """Whether the process that left a note is still there."""
    return read_identity(note.pid) == note.identity


def _folder(*, make: bool = False) -> Path | None:
    """Return where notes lie, if nobody but this user could have put them there; made where it can be."""
    try:
        folder = servers_folder()
        above = folder.parent
        if make:
            above.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = above.parent.lstat()  # where there is no runtime directory it lies in a folder for everybody
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode) or not is_ours(found):
        return None
    return folder if enter_private(above, make=make) and enter_private(folder, make=make) else None


def _read(path: Path) -> Note | None:
    data = read_private(path, _MOST_BYTES)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Note)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # of another version, or written by hand
        return None
