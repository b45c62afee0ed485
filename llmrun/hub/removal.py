"""Taking something out of the Hugging Face cache: what will go and what that frees, told before anything does.

Other programs use the cache too: what another snapshot refers to stays, and what somebody is fetching is not touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import LLMRunError, UsageError
from llmrun.hub.cache import CachedRepo, blob_of
from llmrun.reading import walk

_IDLE = 10.0  # seconds since its last byte, after which a download without a lock was left


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to go from a repository's folder: first the links of snapshots, then the bytes.

    names: of the files, in the repository. frees: bytes that are free afterwards. whole: the folder goes, with
    everything that is in it.
    """

    repo: CachedRepo
    names: tuple[str, ...]
    links: tuple[Path, ...]
    blobs: tuple[Path, ...]
    frees: int
    whole: bool = False


def plan_removal(repo: CachedRepo, names: Collection[str]) -> Removal:
    """Return what goes with some files of a repository, out of all its snapshots."""
    kept: set[Path] = set()
    going: dict[Path, Path] = {}
    for path, name in walk(repo.folder / "snapshots"):
        blob = blob_of(repo.folder, path) or path  # without links the bytes lie in the snapshot itself
        if name.partition("/")[2] in names:
            going[path] = blob
        else:
            kept.add(blob)
    blobs = sorted(set(going.values()) - kept)
    return Removal(repo, tuple(sorted(names)), tuple(going), tuple(blobs), _freed(blobs))


def plan_removal_of_unfinished(repo: CachedRepo) -> Removal:
    """Return what goes with the downloads that were not finished, and with files that no snapshot refers to."""
    paths = (*(partial.path for partial in repo.partials), *repo.unused)
    unused = (f"{path.name[:12]}… (of no snapshot)" for path in repo.unused)
    return Removal(repo, (*_unfinished_names(repo), *unused), (), paths, _freed(paths))


def plan_removal_of_all(repo: CachedRepo) -> Removal:
    """Return what goes with a whole repository, files of other kinds too."""
    files = [path for path, _ in walk(repo.folder.resolve())]
    names = {name.partition("/")[2] for _, name in walk(repo.folder / "snapshots")}
    blobs = tuple(path for path in files if path.parent.name == "blobs")
    return Removal(repo, (*sorted(names), *_unfinished_names(repo)), (), blobs, _freed(files), whole=True)


def _unfinished_names(repo: CachedRepo) -> tuple[str, ...]:
    return tuple(f"{partial.name or partial.path.name[:12] + '…'} (unfinished)" for partial in repo.partials)


def _freed(paths: Iterable[Path]) -> int:
    """Return the bytes of files that have no other name; a link has none, whatever it leads to."""
    n_bytes = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # broken links, and what somebody else removed
            status = path.lstat()
            n_bytes += status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0
    return n_bytes


def remove(removal: Removal) -> None:
    """Let it go; raises UsageError, and touches nothing, where any of it is being fetched."""
    repo = removal.repo
    locks = repo.folder.parent / ".locks" / repo.folder.name
    names = {path.name.partition(".")[0] + ".lock" for path in removal.blobs}
    if removal.whole:  # a download that has not a byte yet is told by its lock alone
        names |= {path.name for path, _ in walk(locks) if path.suffix == ".lock"}
    if any(_is_written(path) for path in removal.blobs):
        raise _being_fetched(repo.repo_id)
    with contextlib.ExitStack() as held:
        for name in sorted(names):
            held.enter_context(_locked(locks / name, repo.repo_id))
        try:
            _remove_whole(repo.folder) if removal.whole else _remove_files(removal)
        except OSError as error:
            raise LLMRunError(
                f"{error.filename} cannot be removed: {error.strerror}",
                "is a program using it, or is it another user's?",
            ) from error


def _is_written(path: Path) -> bool:
    """Return whether llama.cpp is fetching a file, as far as can be seen: it takes no lock."""
    try:
        return path.name.endswith(".downloadInProgress") and time.time() - path.lstat().st_mtime < _IDLE
    except OSError:  # removed meanwhile
        return False


def _being_fetched(repo_id: str) -> UsageError:
    message = f"a file of {repo_id} is being fetched, so nothing of it was removed"
    return UsageError(message, "wait until that is done, or stop it, and try again")


@contextlib.contextmanager
def _locked(path: Path, repo_id: str) -> Iterator[None]:
    """Hold the lock that huggingface_hub and llmrun take for a file while they fetch it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=0o664)  # as huggingface_hub makes it: others may use the cache
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise _being_fetched(repo_id) from error
    except (OSError, NotImplementedError):  # a cache that may not be written says so soon; some disks know no locks
        pass
    try:
        yield
    finally:
        lock.release()


def _remove_whole(folder: Path) -> None:
    shutil.rmtree(folder.resolve())
    if folder.is_symlink():  # the repository lay on another disk
        folder.unlink()


def _remove_files(removal: Removal) -> None:
    folder = removal.repo.folder
    for path in removal.links:
        path.unlink(missing_ok=True)
    linked = {blob_of(folder, path) for path, _ in walk(folder / "snapshots")}  # also since it was planned
    for path in removal.blobs:
        if path not in linked:
            path.unlink(missing_ok=True)
    for name in ("snapshots", "blobs"):
        _remove_empty(folder / name)
    _forget_commits(folder)
    if not any((folder / name).exists() for name in ("snapshots", "blobs")):
        _remove_whole(folder)


def _remove_empty(folder: Path) -> None:
    """Remove the folders under one that hold nothing but folders, and itself if it is one."""
    for place, _, files in os.walk(folder, topdown=False):
        if not files:
            with contextlib.suppress(OSError):  # not empty: a link to a folder is in it, or one that was kept
                Path(place).rmdir()


def _forget_commits(folder: Path) -> None:
    """Remove refs, listings and notes on absent files of commits of which nothing is here any more."""
    commits = {path.name for path in _entries(folder / "snapshots")}
    for path, _ in walk(folder / "refs"):
        if path.is_file() and path.read_text("ascii", "replace").strip() not in commits:
            path.unlink()
    for path in _entries(folder / "trees"):
        if path.stem not in commits:
            path.unlink()
    for path in _entries(folder / ".no_exist"):
        if path.name not in commits:
            shutil.rmtree(path)
    _remove_empty(folder / "refs")


def _entries(folder: Path) -> Sequence[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()
