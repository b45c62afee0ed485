"""GGUF files that another program keeps in a folder, as the models they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llmrun.grouping import group_files
from llmrun.reading import used_at
from llmrun.shelf.model import ShelfModel, ShelfName
from llmrun.variant import ModelFile


def shelf_models(shelf: ShelfName, name: str, files: Sequence[ModelFile], repo_id: str | None) -> Iterator[ShelfModel]:
    """Yield the quantizations among files, and what is none that could be loaded, with the reason."""
    found = group_files(files, repo_id)
    beside = tuple(sidecar.file for sidecar in found.sidecars if sidecar.kind == "mmproj")
    for variant in (*found.variants, *found.others):
        yield ShelfModel(shelf, name, variant.files, variant.quant, _used(variant.files), repo_id, beside)
    for broken in found.unusable:
        yield ShelfModel(shelf, name, broken.files, None, _used(broken.files), repo_id, problem=broken.reason)


def _used(files: Sequence[ModelFile]) -> float | None:
    return used_at(file.origin for file in files if isinstance(file.origin, Path))
