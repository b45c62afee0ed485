"""What there is to run on this machine: guide, the Hugging Face cache, and what other programs keep; as rows.

Knows who keeps what and what to type for it; must not know how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmrun.embedded import embedded_file
from llmrun.errors import NotFoundError
from llmrun.hub.cache import CachedRepo, Partial, read_cache
from llmrun.reading import size_of, used_at
from llmrun.reference import GUIDE, GUIDE_QUANTS, HubRef
from llmrun.shelf.model import ShelfModel, ShelfName, missing_part, split_models
from llmrun.shelf.shelves import read_shelves
from llmrun.variant import ModelFile

Keeper = Literal["llmrun", "hub"] | ShelfName


@dataclass(frozen=True, slots=True)
class Holding:
    """One quantization of a model that is here.

    model: what to type for it, without the quantization. quant: the label to add, None where the name has it, or there
    is none. last_used: seconds since 1970, None where nobody keeps that. problem: why it cannot be run.
    """

    keeper: Keeper
    model: str
    quant: str | None
    files: tuple[ModelFile, ...]
    last_used: float | None
    problem: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def reference(self) -> str:
        """What to type for exactly this one."""
        if self.keeper == "ollama" or self.model.lower().endswith(".gguf"):  # the name has it, or it is a path
            return self.model
        return f"{self.model}:{self.quant or self.files[0].name}"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A download into a repository of the cache that can be gone on with."""

    repo_id: str
    partial: Partial


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that is here. folder: the Hugging Face cache; notes: what is odd about it."""

    folder: Path
    holdings: tuple[Holding, ...]
    unfinished: tuple[Unfinished, ...]
    notes: tuple[str, ...]

    def size(self, *keepers: Keeper) -> int:
        """Return the bytes that some keepers hold, each file once: quantizations share what lies beside them."""
        files = {file.origin: file.size for held in self.holdings if held.keeper in keepers for file in held.files}
        parts = sum(download.partial.size for download in self.unfinished) if "hub" in keepers else 0
        return sum(files.values()) + parts


def read_inventory() -> Inventory:
    """Return what is here; nothing is loaded, asked or written."""
    cache = read_cache()
    unfinished = tuple(Unfinished(repo.repo_id, partial) for repo in cache.repos for partial in repo.partials)
    cached = (held for repo in cache.repos for held in _cached(repo))
    kept = (_kept(model) for model in read_shelves())
    notes = (*cache.notes, *(note for repo in cache.repos if (note := _unused_note(repo))))
    return Inventory(cache.folder, (*_embedded(), *cached, *kept), unfinished, notes)


def _embedded() -> Iterator[Holding]:
    for quant in GUIDE_QUANTS:
        try:
            path = embedded_file(quant)
        except NotFoundError:  # who runs it is told so
            continue
        yield Holding("llmrun", GUIDE, quant, (ModelFile(path.name, size_of(path) or 0, path),), None)


def _cached(repo: CachedRepo) -> Iterator[Holding]:
    for quant, files in split_models(repo.files):
        used = used_at(file.origin for file in files if isinstance(file.origin, Path))
        yield Holding("hub", repo.repo_id, quant, files, used, missing_part(files))


def _kept(model: ShelfModel) -> Holding:
    files = (*model.files, *model.beside)
    return Holding(model.shelf, model.reference, model.quant, files, model.last_used, model.problem)


def _unused_note(repo: CachedRepo) -> str | None:
    if not repo.unused:
        return None
    return f"{repo.repo_id}: {len(repo.unused)} files that nothing refers to: `hf cache prune` removes them"


def files_of(repo: CachedRepo, ref: HubRef) -> tuple[ModelFile, ...]:
    """Return the files of a repository that a reference means, all quantizations where it leaves that open.

    NotFoundError where none of them is here.
    """
    snapshot = repo.snapshot(ref.revision) if ref.revision else None
    here = snapshot.files if snapshot else () if ref.revision else repo.files
    wanted = ref.quant or ref.filename
    found = [
        files
        for quant, files in split_models(here)
        if wanted is None or wanted.lower() in {(quant or "").lower(), *(file.name.lower() for file in files)}
    ]
    if not found:
        raise NotFoundError(f"{_named(ref)} is not in the cache", _what_is_here(repo))
    return tuple(file for files in found for file in files)


def _named(ref: HubRef) -> str:
    wanted = ref.quant or ref.filename
    return ref.repo_id + (f":{wanted}" if wanted else "") + (f"@{ref.revision}" if ref.revision else "")


def _what_is_here(repo: CachedRepo) -> str:
    names = [quant or files[0].name for quant, files in split_models(repo.files)]
    return f"of {repo.repo_id} there is {', '.join(dict.fromkeys(names)) or 'nothing whole'}"
