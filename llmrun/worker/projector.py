"""Asking llama.cpp what a projector for images would take before its weights are there.

mtmd loads a ghost of it without reading weights, makes room for its largest graph, and tells the sum by device
(mtmd.cpp, mtmd_get_memory_usage).
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from llama_cpp import mtmd_cpp as mtmd

from llmrun.errors import EngineError, GGUFError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.projector import parse_projector
from llmrun.memory.engine_memory import ProjectorMemory
from llmrun.settings import RunSettings
from llmrun.worker.breakdown import Map, can_read_maps, read_map
from llmrun.worker.devices import devices
from llmrun.worker.dry_run import ghost
from llmrun.worker.log import engine_log
from llmrun.worker.vision import projector_device, projector_params

_USAGE = "_Z21mtmd_get_memory_usagePKc19mtmd_context_params"


def ask_projector(header: bytes, size: int, settings: RunSettings) -> ProjectorMemory:
    """Return what a projector of this header would take with these settings' devices.

    size: bytes of the whole file. Raises GGUFError for one that is refused, EngineError where it cannot be asked.
    """
    if not can_read_maps():
        raise EngineError("this engine's figures for a projector cannot be read here")
    ask: Any = getattr(mtmd._libmtmd, _USAGE, None)
    if ask is None:
        raise EngineError("this engine tells nothing of projectors")
    ask.restype, ask.argtypes = Map, (ctypes.c_char_p, mtmd.mtmd_context_params)
    engine_log().hear(mtmd.mtmd_helper_log_set)
    parsed = parse_header(header)
    if not isinstance(parsed, GGUFHeader):
        raise GGUFError("the header of the projector is not whole")
    params = projector_params(settings, parse_projector(parsed))
    with ghost(header, size) as path:
        found = read_map(ask(os.fsencode(path), params), n_values=1)
    if not found:  # mtmd keeps the reason to itself here, and says it where the projector is loaded
        raise GGUFError("llama.cpp refuses the projector", "take the model's own mmproj file")
    device = projector_device(settings)
    own = None if device is None else devices().pointers((device,))[0]
    on_device = sum(size for pointer, size in found if pointer == own)
    return ProjectorMemory(sum(size for _, size in found) - on_device, on_device)
