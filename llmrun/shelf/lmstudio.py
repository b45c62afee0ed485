"""The models of LM Studio: MODELS/PUBLISHER/REPOSITORY/FILE.gguf, named as repositories of the Hub.

Its home is told by ~/.lmstudio-home-pointer, else ~/.cache/lm-studio, else ~/.lmstudio (findLMStudioHome of
github.com/lmstudio-ai/lms); `downloadsFolder` in settings.json there moves the models elsewhere. Folders two deep are
what it looks into (lmstudio-ai/docs: "expected models directory structure").
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmrun.reading import read_within, size_of, walk
from llmrun.shelf.folder import shelf_models
from llmrun.shelf.model import ShelfModel
from llmrun.variant import ModelFile

_MAX_POINTER = 4096  # bytes: no path is longer
_MAX_SETTINGS = 16 << 20


def lmstudio_folders(home: Path | None = None) -> tuple[Path, ...]:
    """Return where LM Studio keeps models, those folders first that it was told; home: None is this user's."""
    home = home or Path(os.path.expanduser("~"))  # noqa: PTH111 (Path's fails where there is no home)
    pointer = (read_within(home / ".lmstudio-home-pointer", _MAX_POINTER) or b"").decode("utf-8", "replace").strip()
    homes = [Path(pointer)] if pointer and "\0" not in pointer else []
    homes += [home / ".cache" / "lm-studio", home / ".lmstudio"]
    return tuple(dict.fromkeys(_models_folder(place, home) for place in homes))


def _models_folder(place: Path, home: Path) -> Path:
    try:
        settings = json.loads(read_within(place / "settings.json", _MAX_SETTINGS) or b"null")
    except (ValueError, RecursionError):
        settings = None
    told = settings.get("downloadsFolder") if isinstance(settings, dict) else None
    if not isinstance(told, str) or not told.strip() or "\0" in told:
        return place / "models"
    return home / told[2:] if told.startswith(("~/", "~\\")) else Path(told.strip())


def read_lmstudio(folders: Sequence[Path] | None = None) -> tuple[ShelfModel, ...]:
    """Return the models of LM Studio, each quantization for itself, by name."""
    found: dict[tuple[str, str], ShelfModel] = {}
    for folder in lmstudio_folders() if folders is None else folders:
        for repo in _repos(folder):
            for model in _models(repo):
                found.setdefault((model.name, model.files[0].name), model)
    return tuple(found[key] for key in sorted(found))


def _repos(folder: Path) -> Iterator[Path]:
    """Yield the folders two deep; links to folders are followed so far, and no farther."""
    for publisher in _folders(folder):
        yield from _folders(publisher)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []


def _models(repo: Path) -> Iterator[ShelfModel]:
    files = [file for path, name in walk(repo) if (file := _file(path, name)) is not None]
    name = f"{repo.parent.name}/{repo.name}"
    yield from shelf_models("lmstudio", name, files, name)


def _file(path: Path, name: str) -> ModelFile | None:
    size = size_of(path) if name.lower().endswith(".gguf") else None
    return None if size is None else ModelFile(name, size, path)
