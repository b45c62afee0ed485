"""The models that llama.cpp fetched itself: a folder of OWNER_REPO_PATH.gguf, or since 2026 a cache as the Hub's.

`manifest=OWNER=REPO=TAG.json` beside them tells which repository they are from, and their sha256 (get_manifest_path in
llama.cpp's common/download.cpp of 2025); versions before that are said to have written the address into FILE.gguf.json,
for which we have no source: one that is not as expected is passed over.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.gguf.splits import split_names
from llmrun.hub.cache import read_cache
from llmrun.reading import read_within, size_of
from llmrun.shelf.folder import shelf_models
from llmrun.shelf.model import ShelfModel
from llmrun.variant import ModelFile

_MANIFEST = re.compile(r"manifest=([\w.-]+)=([\w.-]+)=[\w.-]+\.json", re.ASCII)
_ADDRESS = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+)/resolve/[^/]+/(.+\.gguf)", re.ASCII)
_MAX_BYTES = 4 << 20  # of a manifest, which holds the model's template


@dataclass(frozen=True, slots=True)
class Origin:
    """Which file of which repository of the Hub a file is; what is None is not told."""

    repo_id: str | None
    path: str
    sha256: str | None


def llama_cpp_folder() -> Path:
    """Return where llama.cpp keeps what it fetches (fs_get_cache_directory in its common/common.cpp)."""
    if told := os.environ.get("LLAMA_CACHE"):
        return Path(told)
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path's fails where there is no home)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home) / "llama.cpp"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "llama.cpp"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "llama.cpp"


def read_llama_cpp(folder: Path | None = None) -> tuple[ShelfModel, ...]:
    """Return the models that llama.cpp fetched, each quantization for itself, by name."""
    folder = folder or llama_cpp_folder()
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return ()
    by_repo: dict[str | None, list[ModelFile]] = defaultdict(list)
    for repo in read_cache(folder).repos:
        by_repo[repo.repo_id] += repo.files
    origins = _origins(folder, names)
    for name in names:
        origin = origins.get(name, Origin(None, name, None))
        if name.lower().endswith(".gguf") and (size := size_of(folder / name)) is not None:
            by_repo[origin.repo_id].append(ModelFile(origin.path, size, folder / name, origin.sha256))
    found = [model for repo_id, files in by_repo.items() for model in _models(repo_id, files)]
    return tuple(sorted(found, key=lambda model: (model.name, model.files[0].name)))


def _models(repo_id: str | None, files: list[ModelFile]) -> Iterator[ShelfModel]:
    for model in shelf_models("llama.cpp", repo_id or "", files, repo_id):
        yield model if repo_id else replace(model, name=str(model.paths[0]))


def _origins(folder: Path, names: list[str]) -> dict[str, Origin]:
    """Return what is told of files, by their names here; of a model in parts the first is told, and means them all."""
    found: dict[str, Origin] = {}
    for name in names:
        if name.endswith(".gguf.json"):
            told = parse_address(read_within(folder / name, _MAX_BYTES) or b"")
            found |= {name.removesuffix(".json"): told} if told else {}
        elif match := _MANIFEST.fullmatch(name):
            repo_id = f"{match[1]}/{match[2]}"
            for origin in parse_manifest(repo_id, read_within(folder / name, _MAX_BYTES) or b""):
                found |= {f"{repo_id}/{part.path}".replace("/", "_"): part for part in _parts(origin)}
    return found


def _parts(origin: Origin) -> Iterator[Origin]:
    names = split_names(origin.path)
    if names is None:
        yield origin
        return
    yield from (Origin(origin.repo_id, name, None) for name in names)  # the sum is the first part's alone


def parse_manifest(repo_id: str, content: bytes) -> tuple[Origin, ...]:
    """Return the files that a manifest tells of: a model, and a projector where there is one."""
    value = _parse(content)
    return tuple(filter(None, (_parse_entry(repo_id, value.get(key)) for key in ("ggufFile", "mmprojFile"))))


def _parse_entry(repo_id: str, entry: object) -> Origin | None:
    path = entry.get("rfilename") if isinstance(entry, dict) else None
    large = entry.get("lfs") if isinstance(entry, dict) else None
    if not isinstance(path, str):
        return None
    sha256 = large.get("sha256") if isinstance(large, dict) else None
    return Origin(repo_id, path, sha256 if isinstance(sha256, str) else None)


def parse_address(content: bytes) -> Origin | None:
    """Return which file the address in a description of 2025 means; None for any other content."""
    url = _parse(content).get("url")
    match = _ADDRESS.fullmatch(url) if isinstance(url, str) else None
    return Origin(match[1], match[2], None) if match else None


def _parse(content: bytes) -> dict[str, object]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
