"""What the Hub says of a repository: its commit and its GGUF files; and which repositories there are.

Must not know what is in the files, or what is done with the list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from llmrun.errors import HubError
from llmrun.hub.address import host_of
from llmrun.hub.answer import LATER, asked_wait
from llmrun.hub.client import endpoint, hub_api, hub_errors
from llmrun.hub.failure import no_list, web_page
from llmrun.hub.retries import Retries
from llmrun.hub.setback import SetbackError
from llmrun.hub.waiting import ANSWER_SECONDS, answered
from llmrun.variant import ModelFile, RemoteFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoFile, RepoFolder

_T = TypeVar("_T")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)  # a few old ones have no owner
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
    about = _asked(repo_id, f"the files of {repo_id}", lambda: _about(repo_id, revision), slow)
    name, commit = about.repo_id, about.commit
    files = _asked(name, f"the files of {name}", lambda: _files(name, commit), slow)
    return replace(about, files=files)


def _asked(repo_id: str, what: str, ask: Callable[[], _T], slow: Slow) -> _T:
    """Ask the Hub, again where it is out of order for a moment; ask: makes values of ours of what it is answered."""
    retries = Retries()
    with hub_errors(repo_id):
        host = host_of(endpoint())
        while True:
            try:
                return answered(lambda: _understood(lambda: _or_setback(ask, host), host, what), host, slow=slow)
            except SetbackError as setback:
                if setback.unreachable or not retries.wait_after(setback, lambda *_: slow(host)):
                    raise


def _understood(ask: Callable[[], _T], host: str, what: str) -> _T:
    """Ask once; raises HubError for an answer that is none, which the Hub's client takes for one and trips over."""
    from huggingface_hub.errors import HFValidationError

    try:
        return ask()
    except HFValidationError:  # a name that is none, which is not asked for
        raise
    except json.JSONDecodeError as error:
        raise (web_page if error.doc.lstrip().startswith("<") else no_list)(host, what) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise no_list(host, what) from error


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


def _about(repo_id: str, revision: str | None) -> Repository:
    """Return a repository without its files."""
    info = hub_api().model_info(repo_id, revision=revision, timeout=ANSWER_SECONDS)
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise HubError(f"the Hub names no commit of {repo_id}")
    return Repository(_repo_id(info), revision or "main", info.sha, (), bool(info.gated), _license(info))


def _repo_id(info: ModelInfo) -> str:
    if not isinstance(info.id, str) or not _REPO_ID.fullmatch(info.id):
        raise HubError(f"the Hub names {info.id!r} as the name of a repository")
    return info.id


def _files(repo_id: str, commit: str) -> tuple[ModelFile, ...]:
    entries = islice(hub_api().list_repo_tree(repo_id, recursive=True, revision=commit), _MOST_ENTRIES)
    return tuple(_model_file(repo_id, commit, entry) for entry in entries if _is_gguf(entry))


def _is_gguf(entry: RepoFile | RepoFolder) -> bool:
    return hasattr(entry, "size") and _GGUF.search(entry.path.rpartition("/")[2]) is not None


def _model_file(repo_id: str, commit: str, entry: Any) -> ModelFile:
    sha256 = None if entry.lfs is None else entry.lfs.sha256
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise HubError(f"the Hub names {sha256!r} as the sha256 of {entry.path} in {repo_id}")
    if type(entry.size) is not int or not 0 <= entry.size <= _LARGEST:
        raise HubError(f"the Hub names {entry.size!r} as the size of {entry.path} in {repo_id}")
    return ModelFile(entry.path, entry.size, RemoteFile(repo_id, commit, entry.path), sha256)


def _license(info: ModelInfo) -> str | None:
    """Return the licence by the tags, where the Hub repeats what the card says."""
    tags = info.tags if isinstance(info.tags, list) else []
    names = (tag.removeprefix("license:") for tag in tags if isinstance(tag, str) and tag.startswith("license:"))
    return next(names, None)


def search_repositories(words: str, limit: int, slow: Slow = _nobody) -> tuple[Hit, ...]:
    """Return the repositories with GGUF files that the Hub finds, the most downloaded first: one request."""
    expand: list[Any] = ["downloads", "likes", "gated", "gguf"]

    def ask() -> tuple[Hit, ...]:
        found = hub_api().list_models(search=words, filter="gguf", sort="downloads", limit=limit, expand=expand)
        return tuple(map(_hit, found))

    what = f"models called {words!r}"
    return _asked(what, what, ask, slow)


def _hit(info: ModelInfo) -> Hit:
    gguf = info.gguf if isinstance(info.gguf, dict) else {}
    architecture = gguf.get("architecture")
    return Hit(
        _repo_id(info),
        _int_or_none(info.downloads) or 0,
        _int_or_none(info.likes) or 0,
        bool(info.gated),
        _int_or_none(gguf.get("total")),
        _int_or_none(gguf.get("totalFileSize")),
        architecture if isinstance(architecture, str) else None,
    )


def _int_or_none(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
