"""Where files of the Hub lie on this machine: in the cache all programs share, or in a folder somebody named.

Paths, and nothing else: the Hub is not asked, and its client is not imported, so that a model that is here starts at
once. Everything a server can say that becomes a path is checked here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import HubError
from llmrun.hub.checksum import Checksum
from llmrun.repo_path import why_unsafe
from llmrun.variant import RemoteFile

# `.incomplete` so that `hf cache prune` clears away what nobody goes on with
PART_SUFFIX = ".llmrun.incomplete"

# huggingface_hub's validate_repo_id
_REPO_ID = re.compile(r"(?!.*(?:--|\.\.))(?:\b[\w\-.]{1,96}\b/)?\b[\w\-.]{1,96}\b(?<!\.git)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one file lies, or will lie.

    final: what is handed to the engine. blob: where its bytes lie under their sum, None where only `final` has them.
    part: what came of it so far. lock: whoever holds it may change the others.
    """

    final: Path
    blob: Path | None
    part: Path
    lock: Path


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the cache's folder, as huggingface_hub finds it."""
    home = Path(environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    hub = _expand(environ.get("HF_HOME", str(home))) / "hub"
    return _expand(environ.get("HF_HUB_CACHE", environ.get("HUGGINGFACE_HUB_CACHE", str(hub))))


def _expand(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))  # noqa: PTH111 - Path's raises where there is no such user


def snapshot_path(file: RemoteFile, folder: Path) -> Path:
    """Return where the cache has a file of a commit; raises HubError for names that are none."""
    _check_commit(file)
    return _within(repo_folder(file.repo_id, folder), f"snapshots/{file.commit}", file)


def place_in_cache(file: RemoteFile, checksum: Checksum | None, folder: Path) -> Place:
    """Return where a file lies in the cache; without a checksum there is no name to put its bytes under."""
    repo = repo_folder(file.repo_id, folder)
    key = checksum.value if checksum else hashlib.sha256(f"{file.commit}/{file.path}".encode()).hexdigest()
    return Place(
        final=snapshot_path(file, folder),
        blob=repo / "blobs" / key if checksum else None,
        part=repo / "blobs" / f"{key}{PART_SUFFIX}",
        lock=folder / ".locks" / repo.name / f"{key}.lock",  # the one huggingface_hub takes
    )


def place_in_folder(file: RemoteFile, checksum: Checksum | None, folder: Path) -> Place:
    """Return where a file lies in a folder of the user's: under its path in the repository, its part beside it."""
    _check_commit(file)
    final = _within(folder, "", file)
    key = checksum.value if checksum else file.commit
    part = final.with_name(f"{final.name}.{key[:16]}{PART_SUFFIX}")
    return Place(final, None, part, part.with_suffix(".lock"))


def repo_folder(repo_id: str, folder: Path) -> Path:
    """Return the folder of a repository in the cache; raises HubError for an id that is none."""
    if not _REPO_ID.fullmatch(repo_id):
        raise HubError(f"{repo_id!r} is no name of a repository", "write it as owner/name")
    return folder / "--".join(("models", *repo_id.split("/")))


def ref_path(repo_id: str, revision: str, folder: Path) -> Path:
    """Return where the cache has the commit of a revision; raises HubError for a name that leads elsewhere."""
    refs = repo_folder(repo_id, folder) / "refs"
    if (why := why_unsafe(revision)) is not None:
        raise HubError(f"{revision!r} is no name of a revision: it {why}")
    return refs / revision


def is_whole(path: Path, size: int) -> bool:
    """Return whether a file is here with all its bytes, as far as their number tells."""
    return path.is_file() and path.stat().st_size == size


def _check_commit(file: RemoteFile) -> None:
    if not re.fullmatch("[0-9a-f]{40}", file.commit):
        raise HubError(f"{file.commit!r} is no commit of {file.repo_id}: it has 40 hexadecimal digits")


def _within(root: Path, below: str, file: RemoteFile) -> Path:
    """Return a file's path under a folder; links on the way may not lead out of the folder either."""
    if (why := why_unsafe(file.path)) is not None:
        raise HubError(f"{file.path!r} of {file.repo_id} is not fetched: it {why}")
    path = root / below / file.path
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise HubError(f"{file.path!r} of {file.repo_id} is not fetched: a link leads out of {root}")
    return path
