"""All shelves together: the models that other programs keep, and those among them that a name means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.shelf.llama_cpp import read_llama_cpp
from llmrun.shelf.lmstudio import read_lmstudio
from llmrun.shelf.model import ShelfModel
from llmrun.shelf.ollama import HUB_HOSTS, canonical_name, read_ollama


@dataclass(frozen=True, slots=True)
class ShelfFolders:
    """Where to look; None is where the programs usually keep their models."""

    ollama: Sequence[Path] | None = None
    lmstudio: Sequence[Path] | None = None
    llama_cpp: Path | None = None


def read_shelves(folders: ShelfFolders = ShelfFolders()) -> tuple[ShelfModel, ...]:
    """Return the models of all other programs."""
    return (*read_ollama(folders.ollama), *read_lmstudio(folders.lmstudio), *read_llama_cpp(folders.llama_cpp))


def find(name: str, models: Iterable[ShelfModel] | None = None) -> ShelfModel | None:
    """Return the model that a name means, one that can be used before one that cannot; None for none.

    name: "ollama:qwen3:8b", "lmstudio:publisher/repo:Q4_K_M", "qwen3:8b" as Ollama has it, or a repository of the Hub
    with a quantization or without: "owner/name" alone is never a user of Ollama's. models: None is all there are.
    """
    return next(iter(find_all(name, models)), None)


def find_all(name: str, models: Iterable[ShelfModel] | None = None) -> tuple[ShelfModel, ...]:
    """Return the models that a name means, of several quantizations where it leaves that open; see `find`."""
    found = [model for model in (read_shelves() if models is None else models) if _means(name, model)]
    return tuple(sorted(found, key=lambda model: model.problem is not None))


def _means(name: str, model: ShelfModel) -> bool:
    shelf, colon, rest = name.partition(":")
    if colon and shelf.lower() in ("ollama", "lmstudio"):
        return shelf.lower() == model.shelf and _is_named(rest, model)
    if "/" in name and not name.startswith(HUB_HOSTS):
        return _is_from(name, model)
    return model.shelf == "ollama" and _is_named(name, model)


def _is_named(name: str, model: ShelfModel) -> bool:
    if model.shelf == "ollama":
        return canonical_name(name).lower() == model.name.lower()
    return _is_with_quant(name, model.name, model)


def _is_from(name: str, model: ShelfModel) -> bool:
    return model.repo_id is not None and _is_with_quant(name, model.repo_id, model)


def _is_with_quant(name: str, wanted: str, model: ShelfModel) -> bool:
    """Whether a name is the wanted one, alone or with this model's quantization or the stem of its file."""
    path, colon, quant = name.partition(":")
    if path.lower() != wanted.lower():
        return False
    tags = {model.quant or "", model.files[0].name if model.files else "", _tag(model)}
    return not colon or quant.lower() in {tag.lower() for tag in tags}


def _tag(model: ShelfModel) -> str:
    return model.name.rpartition(":")[2] if model.shelf == "ollama" else ""
