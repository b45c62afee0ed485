"""Which engine is installed, without importing it: what was kept of one must not be taken for another's."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata, util
from pathlib import Path

from llmrun import __version__


@cache
def engine_id() -> tuple[str, ...]:
    """Tell one engine and what asks it from another: versions, build (by its files), the machine whose CPU it uses."""
    folder = library_folder()
    found = [] if folder is None else sorted(folder.glob("*"))
    files = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in found]
    return (_version(), f"llmrun {__version__}", platform.machine(), platform.node(), *files)


def _version() -> str:
    """The installed version; where there is none, that is for whoever starts the engine to complain of."""
    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return "no engine"


def library_folder() -> Path | None:
    """The folder whose libraries are loaded: the package's own, unless somebody names another (llama_cpp.py)."""
    if (named := os.environ.get("LLAMA_CPP_LIB_PATH")) is not None:
        return Path(named)
    found = util.find_spec("llama_cpp")  # a search, not an import
    return Path(found.origin).parent / "lib" if found is not None and found.origin else None
