"""In which layouts the installed engine keeps weights on this processor, without importing it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from llmrun.engine.build import library_folder
from llmrun.hardware.cpu import FLAGS_AMX, cpu_layouts, read_cpu
from llmrun.hardware.layout import Layouts

_AMX_CODE = b"AMX is not ready to be used!"  # what ggml-cpu/amx/amx.cpp says where the system refuses it


@cache
def read_layouts() -> Layouts:
    """Return what this machine's CPU repacks; nothing where its features cannot be read."""
    flags = read_cpu().flags
    if flags >= FLAGS_AMX and not has_amx_code(library_folder()):
        flags -= FLAGS_AMX
    return cpu_layouts(platform.machine(), flags)


def has_amx_code(folder: Path | None) -> bool:
    """Tell whether an engine was compiled with AMX, by the libraries in its folder; as if, where none can be read."""
    files = [] if folder is None else sorted(folder.glob("*ggml-cpu*"))
    try:
        return not files or any(_AMX_CODE in file.read_bytes() for file in files)
    except OSError:
        return True
