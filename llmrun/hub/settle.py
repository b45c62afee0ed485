"""What is done with files where they lie: taken over from other programs, given their names, linked.

All of it under the file's lock; nothing is asked of the Hub.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from llmrun.hub.part import Part
from llmrun.hub.store import Place, ref_path

_POLL = 0.25  # seconds between looks at how far another process is
_LLAMA_CPP = ".downloadInProgress"  # common/download.cpp
_IDLE = 10.0  # seconds since its last byte, after which a download without a lock is one that was left


@contextlib.contextmanager
def held(place: Place, waiting: Callable[[int], None]) -> Iterator[None]:
    """Hold a file's lock; waiting: told, while another process has it, how many bytes are here."""
    from filelock import FileLock, Timeout

    place.lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.lock, mode=0o664)  # as huggingface_hub's: others of a group may wait for it too
    timeout = 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            timeout = _POLL
            waiting(_size_of(place.part))
    try:
        yield
    finally:
        lock.release()  # first: Windows removes no open file
    if place.blob is None:  # a folder of the user's: whoever waits finds the file there, whichever lock it gets
        with contextlib.suppress(OSError):
            place.lock.unlink()


def bytes_here(place: Place) -> int:
    """Return how many bytes of a file need not be fetched, as far as their number tells."""
    return max(_size_of(place.part), *map(_solid_size, _left_by_others(place)), 0)


def take_over(place: Place) -> None:
    """Make the part what another program left of the same file, where that is more."""
    found = max(_left_by_others(place), key=_solid_size, default=None)
    if found is None or (size := _solid_size(found)) <= _size_of(place.part):
        return
    if found.name.endswith(_LLAMA_CPP):  # takes no lock: whoever may yet go on with it does so in a file of its own
        shutil.copyfile(found, place.part)
        os.truncate(place.part, size)
        return
    os.truncate(found, size)
    found.replace(place.part)


def settle(place: Place, part: Part) -> None:
    """Give a part that is right its name, surely on the disk, and clear away what is of no use now."""
    part.sync()
    part.close()  # Windows renames no open file
    target = place.blob or place.final
    target.parent.mkdir(parents=True, exist_ok=True)
    others_may_link = os.path.lexists(target)  # what was there was damaged: their links are whole again
    place.part.replace(target)
    _sync_folder(target.parent)
    if place.blob is not None:
        link(place, moves=not others_may_link)
    for path in _left_by_others(place):
        path.unlink(missing_ok=True)


def link(place: Place, moves: bool = False) -> None:
    """Have the file's own name lead to its bytes; where there are no links, it is a second name or a copy of them.

    moves: the bytes may go there themselves, as no other snapshot leads to them.
    """
    assert place.blob is not None, "there is nothing to link to"
    place.final.parent.mkdir(parents=True, exist_ok=True)
    place.final.unlink(missing_ok=True)
    try:
        if os.environ.get("HF_HUB_DISABLE_SYMLINKS", "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise OSError("links are not wanted")
        place.final.symlink_to(os.path.relpath(place.blob, place.final.parent))
    except OSError:  # Windows, where links need a right of their own; file systems without
        if moves:
            place.blob.replace(place.final)
        elif not copy_from(place.blob, place):
            place.part.replace(place.final)


def copy_from(path: Path, place: Place) -> bool:
    """Return whether a file of the cache got a second name elsewhere; if not, its bytes were copied, as a part."""
    place.final.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path.resolve(), place.final)
    except OSError:  # another disk, or a file system without
        place.part.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place.part)
        return False
    return True


def namesakes(place: Place) -> tuple[Path, ...]:
    """Return the files of that name in other snapshots that are no links, so that no blob's name tells their sum."""
    if place.blob is None:
        return ()
    snapshots = place.blob.parent.parent / "snapshots"
    name = Path(*place.final.relative_to(snapshots).parts[1:])
    with contextlib.suppress(OSError):
        paths = [snapshot / name for snapshot in snapshots.iterdir()]
        return tuple(path for path in paths if path != place.final and path.is_file() and not path.is_symlink())
    return ()


def mark_as_cache(folder: Path) -> None:
    """Have backups pass over the cache: https://bford.info/cachedir/. What huggingface_hub wrote stays."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), (folder / "CACHEDIR.TAG").open("x") as file:
        file.write("Signature: 8a477f597d28d172789f06886806bc55\n# This file is a cache directory tag of llmrun.\n")


def remember_revision(repo_id: str, revision: str, commit: str, folder: Path) -> None:
    """Write down which commit a revision is, as huggingface_hub does; whole or not at all."""
    path = ref_path(repo_id, revision, folder)
    if revision == commit or (path.is_file() and path.read_bytes() == commit.encode()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    new.write_text(commit, "utf-8")
    new.replace(path)


def _left_by_others(place: Place) -> tuple[Path, ...]:
    """Return what other programs left of a file in the cache; one that another may be writing now is none."""
    if place.blob is None:
        return ()
    key = re.escape(place.blob.name)
    # huggingface_hub since 1.18, before it, and llama.cpp (common/download.cpp), which takes no lock
    theirs = re.compile(rf"{key}(?:\.[0-9a-f]{{8}})?\.incomplete|{key}\.downloadInProgress")
    with contextlib.suppress(OSError):
        return tuple(path for path in place.blob.parent.iterdir() if theirs.fullmatch(path.name) and _is_idle(path))
    return ()


def _is_idle(path: Path) -> bool:
    return not path.name.endswith(_LLAMA_CPP) or time.time() - path.stat().st_mtime > _IDLE


def _solid_size(path: Path) -> int:
    """Return the bytes before the first hole: Xet writes a file in no order."""
    with contextlib.suppress(OSError), path.open("rb") as file:  # another's, and perhaps gone by now
        size = os.fstat(file.fileno()).st_size
        if not hasattr(os, "SEEK_HOLE") or not size:
            return size
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE)
    return 0


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sync_folder(folder: Path) -> None:
    """Have the disk keep a new name; not every system can open a folder."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
