"""Models as they lie on this machine, looked at for who asks what there is. Reads files, and so is for threads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from llmrun.errors import NotFoundError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.source import read_model_header
from llmrun.gguf.summary import summarize
from llmrun.server.loaded import LoadedNow
from llmrun.server.ollama.describing import ModelOnDisk, digest_of
from llmrun.variant import ModelFile

_KEPT_HEADERS = 32  # in memory; one has some hundred KiB


def look_at(name: str, files: Sequence[ModelFile], quant: str | None) -> ModelOnDisk:
    """Return a model by its files, which are here; raises NotFoundError or GGUFError for what is none.

    quant: None is what its file says.
    """
    paths = [file.origin for file in files if isinstance(file.origin, Path)]
    if not paths:
        raise NotFoundError(f"the model {name} is not here yet", f"`llmrun pull {name}` fetches it")
    try:
        stats = [path.stat() for path in paths]
    except OSError as error:
        raise NotFoundError(f"the files of {name} cannot be read: {error.strerror}") from error
    header = _header(paths[0], stats[0].st_size, stats[0].st_mtime_ns)
    changed = max(stat.st_mtime for stat in stats)
    listed = ((path.name, stat.st_size, stat.st_mtime) for path, stat in zip(paths, stats, strict=True))
    return ModelOnDisk(
        name,
        header,
        quant or summarize(header).quant or "unknown",
        sum(stat.st_size for stat in stats),
        datetime.fromtimestamp(changed, UTC),
        digest_of(listed),
    )


def look_at_loaded(loaded: LoadedNow) -> ModelOnDisk:
    """Return a loaded model by its files; raises as look_at."""
    return look_at(loaded.name, loaded.started.planned.variant.files, loaded.quant)


@lru_cache(_KEPT_HEADERS)
def _header(path: Path, size: int, changed: int) -> GGUFHeader:
    """Read a header, once for a file as it is: clients ask for all models again and again."""
    del size, changed
    return read_model_header(path)
