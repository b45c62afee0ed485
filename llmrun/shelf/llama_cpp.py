"""The models that llama.cpp fetched itself: a folder of OWNER_REPO_PATH.gguf, or since 2026 a cache as the Hub's.

`manifest=OWNER=REPO=TAG.json` beside them tells which repository they are from, and their sha256
(parse_manifest_name, make_old_cache_filename and migrate_single_file in llama.cpp's common/hf-cache.cpp); before there
were manifests, FILE.gguf.json told the address (common_download_file_single in common/arg.cpp of 2025).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.gguf.splits import split_names
from llmrun.hub.cache import CachedRepo, read_cache
from llmrun.reading import read_within, size_of, used_at
from llmrun.shelf.model import ShelfModel, missing_part, split_models
from llmrun.variant import ModelFile

_MANIFEST = re.compile(r"manifest=([\w.-]+)=([\w.-]+)=[\w.-]+\.json", re.ASCII)
_ADDRESS = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+)/resolve/[^/]+/(.+\.gguf)", re.ASCII)
_MAX_BYTES = 4 << 20  # of a manifest, which holds the model's template


@dataclass(frozen=True, slots=True)
class Origin:
    """Which file of which repository of the Hub a file is; sha256 where that is told."""

    repo_id: str
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
    found = [model for repo in read_cache(folder).repos for model in _cached_models(repo)]
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return ()
    origins = _origins(folder, names)
    files = [file for name in names if (file := _file(folder, name, origins)) is not None]
    found += _flat_models(folder, files, origins)
    return tuple(sorted(found, key=lambda model: (model.name, model.files[0].name)))


def _cached_models(repo: CachedRepo) -> Iterator[ShelfModel]:
    beside = tuple(file for file in repo.files if "mmproj" in file.name.lower())
    for quant, parts in split_models([file for file in repo.files if file not in beside]):
        yield _model(repo.repo_id, parts, quant, repo.repo_id, beside)


def _flat_models(folder: Path, files: list[ModelFile], origins: Mapping[str, Origin]) -> Iterator[ShelfModel]:
    beside = [file for file in files if "mmproj" in file.name.lower()]
    for quant, parts in split_models([file for file in files if file not in beside]):
        origin = origins.get(parts[0].name)
        if origin is None:
            yield _model(str(folder / parts[0].name), parts, quant, None, ())
            continue
        same = tuple(f for f in beside if f.name in origins and origins[f.name].repo_id == origin.repo_id)
        yield _model(origin.repo_id, parts, quant, origin.repo_id, same)


def _model(
    name: str, files: tuple[ModelFile, ...], quant: str | None, repo_id: str | None, beside: tuple[ModelFile, ...]
) -> ShelfModel:
    last_used = used_at(file.origin for file in files if isinstance(file.origin, Path))
    return ShelfModel("llama.cpp", name, files, quant, last_used, repo_id, beside, missing_part(files))


def _file(folder: Path, name: str, origins: Mapping[str, Origin]) -> ModelFile | None:
    size = size_of(folder / name) if name.lower().endswith(".gguf") else None
    if size is None:
        return None
    file = ModelFile(name, size, folder / name)
    return replace(file, sha256=origins[name].sha256) if name in origins else file


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
                found |= dict.fromkeys(_flat_names(origin), origin)
    return found


def _flat_names(origin: Origin) -> Iterator[str]:
    first = f"{origin.repo_id}/{origin.path}".replace("/", "_")
    yield first
    yield from (split_names(first) or ())[1:]


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
    is_whole = split_names(path) is None  # of a model in parts the sum is the first part's alone
    return Origin(repo_id, path, sha256 if isinstance(sha256, str) and is_whole else None)


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
