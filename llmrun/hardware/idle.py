"""A GPU that lies idle beside a model on the CPU: what is said of it, without the doctor's whole examination."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from llmrun.hardware.gpu import HIDING, Gpu, GpuReport, is_minor
from llmrun.hardware.gpus import read_gpus
from llmrun.units import format_bytes

_NONE = ("", "-1")  # of a variable that hides devices: all of them


def idle_note(read: Callable[[], GpuReport] = read_gpus, variables: Mapping[str, str] = os.environ) -> str | None:
    """Return what to say where the engine uses no device, and there is a GPU that is worth it; None where there is not.

    Asks the system and the drivers' tools: milliseconds where there is no card. A user who hides all of them means it.
    """
    if any(variables.get(name) in _NONE for names in HIDING.values() for name in names):
        return None
    cards = [gpu for gpu in read().gpus if gpu.vendor != "other" and not is_minor(gpu)]
    if not cards:
        return None
    best = max(cards, key=lambda gpu: gpu.total or 0)
    return f"{_described(best)} is not used: `llmrun doctor` says why, `llmrun doctor --fix` mends it where that can be"


def _described(gpu: Gpu) -> str:
    return gpu.name if gpu.total is None else f"{gpu.name} ({format_bytes(gpu.total)})"
