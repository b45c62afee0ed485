"""What lies in the Hugging Face cache: repositories with GGUF files, and downloads that were not finished.

Read from the folders themselves, without the Hub's client, which takes longer to import than a model to start:

    models--OWNER--NAME/refs/REVISION                a commit, as text
    models--OWNER--NAME/snapshots/COMMIT/PATH        a link to ../../blobs/SHA256; a file where links cannot be made
    models--OWNER--NAME/blobs/SHA256.*incomplete     a download of huggingface_hub or llmrun
    models--OWNER--NAME/blobs/SHA256.downloadInProgress    one of llama.cpp

Anybody may write there, so nothing is believed: a link that leads out of the cache, in a circle or to nothing, a name
that is none are told in notes and passed over.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.hub.store import cache_folder
from llmrun.hub.tree_cache import TreeFile, read_tree
from llmrun.reading import read_within, walk
from llmrun.variant import ModelFile

_REPO_FOLDER = re.compile(r"models--(?P<id>[\w.-]+)", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PARTIAL = (".incomplete", ".downloadInProgress")
_MAGIC = b"GGUF"
_MAX_REF_BYTES = 256  # a commit has 40
_MAX_REPO_ID = 96  # as the Hub's client has it


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The GGUF files of one commit that are here; changed: when the last was added, seconds since 1970."""

    commit: str
    files: tuple[ModelFile, ...]
    changed: float


@dataclass(frozen=True, slots=True)
class Partial:
    """A download that was not finished: the bytes that are there.

    name, total: of the whole file, where somebody remembers them; sha256 likewise. changed: seconds since 1970.
    """

    path: Path
    size: int
    changed: float
    sha256: str | None = None
    name: str | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class CachedRepo:
    """A repository with GGUF files; snapshots: the newest first. last_used: seconds since 1970.

    unused: files that no snapshot refers to, as a removal leaves behind that was interrupted.
    """

    repo_id: str
    folder: Path
    snapshots: tuple[Snapshot, ...]
    refs: Mapping[str, str]
    partials: tuple[Partial, ...]
    unused: tuple[Path, ...]
    last_used: float
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """The files of all snapshots; of those with one name the newest."""
        found: dict[str, ModelFile] = {}
        for snapshot in self.snapshots:
            for file in snapshot.files:
                found.setdefault(file.name, file)
        return tuple(found[name] for name in sorted(found))

    def snapshot(self, revision: str | None = None) -> Snapshot | None:
        """Return what is here of a branch, a tag or a commit; None where that is nothing.

        Without a revision it is main, or the newest: main moves on when the Hub is asked, before anything is fetched.
        """
        commit = self.refs.get(revision or "main", revision)
        found = next((snapshot for snapshot in self.snapshots if snapshot.commit == commit), None)
        return found if found or revision else next(iter(self.snapshots), None)


@dataclass(frozen=True, slots=True)
class Cache:
    """All of it, by name."""

    folder: Path
    repos: tuple[CachedRepo, ...]
    notes: tuple[str, ...]


def read_cache(folder: Path | None = None) -> Cache:
    """Return everything that is in the cache; nothing where there is none. folder: None is where it usually is."""
    folder = folder or cache_folder()
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name.startswith("models--"))
    except FileNotFoundError:
        return Cache(folder, (), ())
    except OSError as error:
        return Cache(folder, (), (f"{folder} cannot be read: {error.strerror}",))
    found = [_read_repo(folder, name) for name in names]
    repos = tuple(repo for repo in found if isinstance(repo, CachedRepo))
    odd = [note for note in found if isinstance(note, str)]
    return Cache(folder, repos, (*odd, *(note for repo in repos for note in repo.notes)))


def read_repo(repo_id: str, folder: Path | None = None) -> CachedRepo | None:
    """Return what is in the cache of one repository, None for nothing; case does not matter, as on the Hub."""
    folder = folder or cache_folder()
    wanted = "models--" + repo_id.replace("/", "--")
    if _REPO_FOLDER.fullmatch(wanted) is None:
        return None
    name = wanted if (folder / wanted).exists() else _same_but_for_case(folder, wanted)
    repo = _read_repo(folder, name) if name else None
    return repo if isinstance(repo, CachedRepo) else None


def cached_files(repo_id: str, revision: str | None = None, folder: Path | None = None) -> tuple[ModelFile, ...]:
    """Return the GGUF files of a revision that are in the cache, by name; costs no request.

    revision: a branch, a tag or a commit of 40 hexadecimal digits; without one it is as `CachedRepo.snapshot` says.
    """
    repo = read_repo(repo_id, folder)
    snapshot = repo and repo.snapshot(revision)
    return snapshot.files if snapshot else ()


def cached_snapshots(repo_id: str, revision: str | None = None, folder: Path | None = None) -> tuple[Snapshot, ...]:
    """Return what is here of a repository, commit by commit: main's first, then the newest; costs no request.

    revision: that one alone. A commit has only what was fetched of it, and where none is named another's is as good.
    """
    repo = read_repo(repo_id, folder)
    if repo is None:
        return ()
    first = repo.snapshot(revision)
    others = () if revision else (snapshot for snapshot in repo.snapshots if snapshot is not first)
    return tuple(filter(None, (first, *others)))


def _same_but_for_case(folder: Path, wanted: str) -> str | None:
    try:
        return next((path.name for path in folder.iterdir() if path.name.lower() == wanted.lower()), None)
    except OSError:
        return None


def _read_repo(cache: Path, name: str) -> CachedRepo | str | None:
    """Return a repository; None where it has nothing of GGUF, a note where it is odd."""
    match = _REPO_FOLDER.fullmatch(name)
    repo_id = match["id"].replace("--", "/") if match else ""
    if not 0 < len(repo_id) <= _MAX_REPO_ID or repo_id.count("/") > 1:
        return f"{name} is no repository's folder"
    try:
        return _look_into(cache / name, repo_id)
    except OSError as error:  # not to be read, or removed meanwhile
        return f"{repo_id} cannot be read: {error.strerror}"


def _look_into(folder: Path, repo_id: str) -> CachedRepo | None:
    notes: list[str] = []
    snapshots = _read_snapshots(folder, notes)
    blobs = [path for path, _ in walk(folder / "blobs")]
    partials = _read_partials(folder, [path for path in blobs if path.name.endswith(_PARTIAL)])
    if not any(snapshot.files for snapshot in snapshots):
        partials = tuple(partial for partial in partials if _begins_a_model(partial.path))
        if not partials:
            return None
    links = {path.readlink().name for path, _ in walk(folder / "snapshots") if path.is_symlink()}
    return CachedRepo(
        repo_id,
        folder,
        tuple(sorted((s for s in snapshots if s.files), key=lambda s: s.changed, reverse=True)),
        _read_refs(folder / "refs"),
        partials,
        tuple(path for path in blobs if path.name not in links and not path.name.endswith(_PARTIAL)),
        max([*map(_last_used, snapshots), *(partial.changed for partial in partials)]),
        tuple(f"{repo_id}: {note}" for note in notes),
    )


def _read_snapshots(folder: Path, notes: list[str]) -> list[Snapshot]:
    """Return the snapshots, of those without a GGUF file too; what is odd goes to notes."""
    snapshots: list[Snapshot] = []
    for place in sorted((folder / "snapshots").iterdir()) if (folder / "snapshots").is_dir() else ():
        if _COMMIT.fullmatch(place.name) is None or place.is_symlink():
            notes.append(f"snapshots/{place.name} is no commit")
            continue
        read = [_read_file(folder, path, name) for path, name in walk(place) if name.lower().endswith(".gguf")]
        files = [file for file in read if isinstance(file, ModelFile)]
        notes += [note for note in read if isinstance(note, str)]
        snapshots.append(Snapshot(place.name, _with_sums(folder, place.name, files), place.stat().st_mtime))
    return snapshots


def _read_file(folder: Path, path: Path, name: str) -> ModelFile | str:
    """Return a file of a snapshot, or what is odd about it."""
    try:
        blob = blob_of(folder, path)
        status = (blob or path).lstat()
        if blob is None or not stat.S_ISREG(status.st_mode):  # any other way than the usual one may lead anywhere
            real = path.resolve(strict=True)
            status = real.stat()
            if stat.S_ISREG(status.st_mode) and not _is_inside(folder, real):
                return f"{name} is a link out of the cache"
    except (OSError, RuntimeError):  # the latter is a circle of links, until Python 3.13
        return f"{name} is a link to nothing"
    if not stat.S_ISREG(status.st_mode):
        return f"{name} is no file"
    told = blob.name if blob and _SHA256.fullmatch(blob.name) else None
    return ModelFile(name, status.st_size, path, told)


def _is_inside(folder: Path, real: Path) -> bool:
    places = (folder.parent, folder, folder / "blobs")  # each may be a link itself, to a larger disk
    return any(real.is_relative_to(place.resolve()) for place in places)


def blob_of(folder: Path, path: Path) -> Path | None:
    """Return which of the blobs in a repository's folder a link of a snapshot points to; None where that is none."""
    if not path.is_symlink():
        return None
    target = Path(os.path.normpath(path.parent / path.readlink()))
    return target if target.parent == folder / "blobs" else None


def _with_sums(folder: Path, commit: str, files: Sequence[ModelFile]) -> tuple[ModelFile, ...]:
    """Return files with the sums that are remembered of those that are no links."""
    if all(file.sha256 for file in files):
        return tuple(files)
    tree = read_tree(folder, commit)
    return tuple(replace(f, sha256=tree[f.name].sha256) if f.name in tree and not f.sha256 else f for f in files)


def _last_used(snapshot: Snapshot) -> float:
    """Return when a file was read last, as far as the file system keeps that, or came."""
    statuses = [file.origin.stat() for file in snapshot.files if isinstance(file.origin, Path)]
    return max([snapshot.changed, *(max(status.st_atime, status.st_mtime) for status in statuses)])


def _read_refs(folder: Path) -> dict[str, str]:
    found = ((name, read_within(path, _MAX_REF_BYTES) or b"") for path, name in walk(folder))
    commits = ((name, content.decode("ascii", "replace").strip()) for name, content in found)
    return {name: commit for name, commit in commits if _COMMIT.fullmatch(commit)}


def _read_partials(folder: Path, paths: Sequence[Path]) -> tuple[Partial, ...]:
    if not paths:
        return ()
    trees = [read_tree(folder, path.stem) for path, _ in walk(folder / "trees")]
    known = {file.sha256: file for tree in trees for file in tree.values()}
    return tuple(filter(None, (_read_partial(path, known) for path in paths)))


def _read_partial(path: Path, known: Mapping[str, TreeFile]) -> Partial | None:
    try:
        status = path.lstat()
    except OSError:  # finished, or given up, since its folder was read
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    etag = path.name.partition(".")[0]
    sha256 = etag if _SHA256.fullmatch(etag) else None
    file = known.get(etag)
    return Partial(
        path, status.st_size, status.st_mtime, sha256, file.name if file else None, file.size if file else None
    )


def _begins_a_model(path: Path) -> bool:
    """Return whether a download may be a GGUF file, by the bytes that are there."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError:
        return False
    return start == _MAGIC[: len(start)]
