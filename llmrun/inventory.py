"""What there is to run on this machine: guide, the Hugging Face cache, and what other programs keep; as rows.

Knows who keeps what and what to type for it; must not know how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmrun.embedded import embedded_file
from llmrun.errors import NotFoundError
from llmrun.grouping import Grouped, group_files
from llmrun.hub.cache import CachedRepo, Partial, read_cache
from llmrun.reading import size_of, used_at
from llmrun.reference import GUIDE, GUIDE_QUANTS, HubRef
from llmrun.selecting import select, select_file
from llmrun.shelf.model import ShelfModel, ShelfName
from llmrun.shelf.shelves import read_shelves
from llmrun.variant import ModelFile

Keeper = Literal["llmrun", "hub"] | ShelfName


@dataclass(frozen=True, slots=True)
class Holding:
    """One quantization of a model that is here, or a file that goes with one.

    model: what to type for the model; reference: for exactly this. kind: "model", or what it is beside one, as
    "mmproj". quant: None where nothing tells it. last_used: seconds since 1970, None where nobody keeps that. problem:
    why it cannot be run.
    """

    keeper: Keeper
    model: str
    reference: str
    files: tuple[ModelFile, ...]
    kind: str = "model"
    quant: str | None = None
    last_used: float | None = None
    problem: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


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
        file = ModelFile(path.name, size_of(path) or 0, path)
        yield Holding("llmrun", GUIDE, f"{GUIDE}:{quant}", (file,), quant=quant)


def _cached(repo: CachedRepo) -> Iterator[Holding]:
    found = group_files(repo.files, repo.repo_id)
    for variant in found.variants:
        yield _held(repo, variant.files, variant.quant, quant=variant.quant)
    for variant in found.others:
        yield _held(repo, variant.files, variant.files[0].name, quant=variant.quant)
    for broken in found.unusable:
        yield _held(repo, broken.files, broken.files[0].name, problem=broken.reason)
    for sidecar in found.sidecars:
        yield _held(repo, (sidecar.file,), sidecar.file.name, kind=sidecar.kind)


def _held(
    repo: CachedRepo,
    files: tuple[ModelFile, ...],
    tag: str,
    kind: str = "model",
    quant: str | None = None,
    problem: str | None = None,
) -> Holding:
    used = used_at(file.origin for file in files if isinstance(file.origin, Path))
    return Holding("hub", repo.repo_id, f"{repo.repo_id}:{tag}", files, kind, quant, used, problem)


def _kept(model: ShelfModel) -> Holding:
    files = (*model.files, *model.beside)
    reference = model.reference
    if model.shelf != "ollama" and model.repo_id is not None:  # one of several, while Ollama's name means this one
        reference += f":{model.quant or model.files[0].name}"
    return Holding(model.shelf, model.reference, reference, files, "model", model.quant, model.last_used, model.problem)


def _unused_note(repo: CachedRepo) -> str | None:
    if not repo.unused:
        return None
    count = "a file" if len(repo.unused) == 1 else f"{len(repo.unused)} files"
    return f"{repo.repo_id}: nothing refers to {count} of it: `llmrun rm {repo.repo_id} --unfinished` frees the room"


def files_of(repo: CachedRepo, ref: HubRef) -> tuple[ModelFile, ...]:
    """Return the files of a repository that a reference means, all of them where it leaves that open.

    NotFoundError where none of them is here.
    """
    here = repo.files
    if ref.revision is not None:
        snapshot = repo.snapshot(ref.revision)
        here = snapshot.files if snapshot else ()
    if not here:
        at = f"@{ref.revision}" if ref.revision else ""
        raise NotFoundError(f"{repo.repo_id}{at} is not in the cache", "`llmrun list` shows what is")
    grouped = group_files(here, repo.repo_id)
    try:
        if ref.quant is not None:
            return select(grouped, ref.quant).files
        return here if ref.filename is None else _with_parts(grouped, here, ref.filename)
    except NotFoundError as error:
        raise NotFoundError(f"of {repo.repo_id} in the cache: {error.message}", error.hint) from error


def _with_parts(grouped: Grouped, here: Sequence[ModelFile], name: str) -> tuple[ModelFile, ...]:
    """Return the file of a name with the other parts of its model, whether or not they can be loaded."""
    sets = [variant.files for variant in (*grouped.variants, *grouped.others)]
    sets += [broken.files for broken in grouped.unusable]
    alone = tuple(file for file in here if file.name == name)
    found = next((files for files in sets if name in {file.name for file in files}), alone)
    return found or select_file(grouped, name).files  # which says that there is none, and what there is
