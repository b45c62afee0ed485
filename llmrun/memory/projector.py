"""What a projector for images takes, by arithmetic on its header, for where no engine can be asked; and where it goes.

Pure. The engine's own word (worker.projector) is better where it can be had; this is not to be less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from llmrun.gguf.projector import Projector
from llmrun.memory.engine_memory import ProjectorMemory
from llmrun.memory.footprint import Footprint, MemoryBreakdown

_F32 = 4  # bytes
_MERGED = 4  # patches that become one token where images keep their size


def estimate_projector(projector: Projector, *, on_device: bool) -> ProjectorMemory:
    """Return what a projector takes on the host and on its device, at most: weights, and room to look at one image.

    The room is that of one layer for all patches at once: the feed-forward network's rows beside four of the width of
    the embedding, with a quarter more for what a driver adds, and the pixels. Measured on CPUs it is 1.1 to 1.6 times
    what the engine takes (CLIP, SigLIP and Qwen2-VL shapes).
    """
    header = projector.header
    width, inner = (header.uint(f"clip.vision.{key}") for key in ("embedding_length", "feed_forward_length"))
    patch = header.uint("clip.vision.patch_size")
    side = header.uint("clip.vision.image_size") // patch
    patches = side * side + 1 if projector.limit is None else projector.limit * _MERGED
    pixels = 3 * patches * patch * patch
    compute = (patches * (max(inner, 4 * width) + 4 * width) * 5 // 4 + pixels) * _F32
    size = projector.size + compute
    return ProjectorMemory(0, size) if on_device else ProjectorMemory(size, 0)


def with_largest_image(projector: Projector, memory: ProjectorMemory) -> ProjectorMemory:
    """Return what the engine said a projector takes, with room for the largest image and not for the first.

    All of a graph but the weights grows with the patches: with flash attention there is nothing that grows faster.
    """

    def grown(size: int) -> int:
        room = max(0, size - projector.size)
        return size + ceil(room * (projector.growth - 1))

    return ProjectorMemory(grown(memory.host) if memory.host else 0, grown(memory.device) if memory.device else 0)


def device_of_projector(devices: Sequence[str], n_gpu_layers: int | None) -> int | None:
    """Return the number of the device a projector is loaded to, None for the host.

    It is the first that layers are on, unless it is another machine's: what would be sent there for each image is more
    than what layers send.
    """
    if n_gpu_layers == 0:
        return None
    return next((number for number, name in enumerate(devices) if not name.startswith("rpc:")), None)


def with_projector(footprint: Footprint, weights: int, memory: ProjectorMemory, place: int | None) -> Footprint:
    """Return a footprint with a projector's memory, its weights where they lie and the rest as room to compute in."""

    def add(used: MemoryBreakdown, size: int, own: int) -> MemoryBreakdown:
        return replace(used, weights=used.weights + own, compute=used.compute + max(0, size - own))

    host = add(footprint.host, memory.host, weights if place is None else 0)
    devices = tuple(
        add(used, memory.device, weights) if number == place else used for number, used in enumerate(footprint.devices)
    )
    return Footprint(host, devices)
