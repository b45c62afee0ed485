"""What the Hub says of a repository: its commit and its GGUF files; and which repositories there are.

Must not know what is in the files, or what is done with the list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from llmrun.errors import HubError
from llmrun.hub.address import host_of
from llmrun.hub.answer import LATER, asked_wait
from llmrun.hub.client import endpoint, hub_api, hub_errors
from llmrun.hub.retries import Retries
from llmrun.hub.setback import SetbackError
from llmrun.hub.waiting import ANSWER_SECONDS, answered
from llmrun.variant import ModelFile, RemoteFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoFile, RepoFolder

_T = TypeVar("_T")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# .gguf, and what becomes one: raw splits as x.gguf.part1of2
_GGUF = re.compile(r"\.gguf", re.IGNORECASE)
_LARGEST = 1 << 50  # bytes; no file is a PiB
_MOST_ENTRIES = 100_000  # files and folders; a list without end is none


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit: its files with GGUF in their names, in the Hub's order.

    repo_id: as the Hub calls it now, which is not what was asked for where it was renamed. revision: what was asked
    for. gated: whether its owner decides who may have it. license: its short name, None where it gives none.
    """

    repo_id: str
    revision: str
    commit: str
    files: tuple[ModelFile, ...]
    gated: bool = False
    license: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A repository that was found. n_params: weights, size: bytes of a file of it; None where the Hub tells none."""

    repo_id: str
    downloads: int
    likes: int
    gated: bool
    n_params: int | None
    size: int | None
    architecture: str | None


Slow = Callable[[str], None]


def _nobody(_: str) -> None: ...


def list_repository(repo_id: str, revision: str | None = None, slow: Slow = _nobody) -> Repository:
    """Return what is in a repository: two requests, and one for every thousand files more.

    slow: told the host that takes long to answer. Raises NotFoundError for a repository or revision there is not,
    UnreachableError, GatedError, HubError.
    """
    info = _asked(repo_id, lambda: hub_api().model_info(repo_id, revision=revision, timeout=ANSWER_SECONDS), slow)
    name, commit = info.id, info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise HubError(f"the Hub names no commit of {repo_id}")
    entries = _asked(name, lambda: _entries(name, commit), slow)
    files = tuple(_model_file(name, commit, entry) for entry in entries if _is_gguf(entry))
    return Repository(name, revision or "main", commit, files, bool(info.gated), _license(info))


def _asked(what: str, ask: Callable[[], _T], slow: Slow) -> _T:
    """Ask the Hub, again where it is out of order for a moment."""
    retries = Retries()
    with hub_errors(what):
        host = host_of(endpoint())
        while True:
            try:
                return answered(lambda: _or_setback(ask, host), host, slow=slow)
            except SetbackError as setback:
                if setback.unreachable or not retries.wait_after(setback, lambda *_: slow(host)):
                    raise


def _or_setback(ask: Callable[[], _T], host: str) -> _T:
    """Ask once; raises SetbackError for an answer that may be another at the next try."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return ask()
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status not in LATER:
            raise
        wait = asked_wait(error.response.headers, datetime.now(UTC))
        raise SetbackError(f"{host} answered {status}", wait) from error


def _entries(repo_id: str, commit: str) -> list[RepoFile | RepoFolder]:
    return list(islice(hub_api().list_repo_tree(repo_id, recursive=True, revision=commit), _MOST_ENTRIES))


def _is_gguf(entry: RepoFile | RepoFolder) -> bool:
    return hasattr(entry, "size") and _GGUF.search(entry.path.rpartition("/")[2]) is not None


def _model_file(repo_id: str, commit: str, entry: Any) -> ModelFile:
    sha256 = None if entry.lfs is None else entry.lfs.sha256
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise HubError(f"the Hub names {sha256!r} as the sha256 of {entry.path} in {repo_id}")
    if type(entry.size) is not int or not 0 <= entry.size <= _LARGEST:
        raise HubError(f"the Hub names {entry.size!r} as the size of {entry.path} in {repo_id}")
    return ModelFile(entry.path, entry.size, RemoteFile(repo_id, commit, entry.path), sha256)


def _license(info: ModelInfo) -> str | None:
    """Return the licence by the tags, where the Hub repeats what the card says."""
    tags = (tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:"))
    return next(tags, None)


def search_repositories(words: str, limit: int, slow: Slow = _nobody) -> tuple[Hit, ...]:
    """Return the repositories with GGUF files that the Hub finds, the most downloaded first: one request."""
    expand: list[Any] = ["downloads", "likes", "gated", "gguf"]

    def ask() -> list[ModelInfo]:
        found = hub_api().list_models(search=words, filter="gguf", sort="downloads", limit=limit, expand=expand)
        return list(found)

    return tuple(map(_hit, _asked(f"models called {words!r}", ask, slow)))


def _hit(info: ModelInfo) -> Hit:
    gguf = info.gguf if isinstance(info.gguf, dict) else {}
    architecture = gguf.get("architecture")
    return Hit(
        info.id,
        info.downloads or 0,
        info.likes or 0,
        bool(info.gated),
        _int_or_none(gguf.get("total")),
        _int_or_none(gguf.get("totalFileSize")),
        architecture if isinstance(architecture, str) else None,
    )


def _int_or_none(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
