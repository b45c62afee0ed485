"""Where the weights go, and how often: host or device, mapped or copied, repacked, and the embedding loaded twice.

Pure. Source: llama.cpp 0c1e57098, src/llama-model.cpp (load_tensors), src/llama-model-loader.cpp (create_tensor) and
ggml/src/ggml-cpu (see hardware.cpu).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmrun.gguf.header import GGUFHeader, align
from llmrun.hardware.layout import Layouts, layout_of
from llmrun.memory.placement import Placement
from llmrun.memory.shape import ALIGNMENT, ModelShape, TensorGroup, stacks

# Backends whose driver has pinned host memory: what of the weights stays on the host goes there, and is not repacked.
PINNED_BACKENDS = frozenset({"CUDA", "ROCm", "MUSA", "Vulkan", "SYCL", "CANN"})
# Those of ggml-cuda.cu, which makes the last row of a quantized matrix longer.
_PADS_ROWS = frozenset({"CUDA", "ROCm", "MUSA"})

_PAGE = 4096  # bytes; what a mapping is cut to


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of weights in each pool; of the host's: those mapped from the file, and those in the repacked layout.

    A repacked matrix of a mapped file is there twice: `mapped` spans its pages too.
    """

    host: int
    mapped: int
    repacked: int
    devices: tuple[int, ...]


def place_weights(
    shape: ModelShape,
    placement: Placement,
    backends: Sequence[str],
    *,
    mmap: bool,
    cpu_experts: int = 0,
    layouts: Layouts | None = None,
) -> WeightBytes:
    """Return where every byte of the weights goes.

    backends: of each device, as ggml calls it. cpu_experts: in so many first layers the experts stay on the host.
    layouts: what this CPU repacks, and how; None or nothing is no repacking.
    """
    known = layouts or {}
    host, devices = _groups(shape, placement, backends, cpu_experts)
    sizes = [_repacked(group, known) for group in host]
    repacked = sum(size for size, _ in sizes)
    factors = _rope_factor_pools(shape, placement)
    copied = sum(group.size for group in host) + sum(more for _, more in sizes)
    copied += shape.rope_factors if None in factors else 0
    if shape.tied is not None and placement.output is not None:
        devices[placement.output] += _size_on(backends[placement.output], shape.tied)
    elif shape.tied is not None:
        again, _ = _repacked(shape.tied, known)
        repacked += again
        copied += again or (shape.tied.size if shape.embedding_twice else 0)
    mapped = _span(host, shape) if mmap else 0
    return WeightBytes(mapped + repacked if mmap else copied, mapped, repacked, tuple(devices))


def _groups(
    shape: ModelShape, placement: Placement, backends: Sequence[str], cpu_experts: int
) -> tuple[list[TensorGroup], list[int]]:
    host, devices = [shape.input], [0] * len(backends)
    for index, (layer, place) in enumerate(zip(shape.layers, placement.layers, strict=True)):
        for group, stays in ((layer.weights, False), (layer.experts, index < cpu_experts)):
            if place is None or stays:
                host.append(group)
            else:
                devices[place] += _size_on(backends[place], group)
    if placement.output is None:
        host.append(shape.output)
    else:
        devices[placement.output] += _size_on(backends[placement.output], shape.output)
    for place in _rope_factor_pools(shape, placement):
        if place is not None:
            devices[place] += shape.rope_factors
    return host, devices


def _size_on(backend: str, group: TensorGroup) -> int:
    return group.size + (group.row_padding if backend in _PADS_ROWS else 0)


def _rope_factor_pools(shape: ModelShape, placement: Placement) -> set[int | None]:
    return {place for layer, place in zip(shape.layers, placement.layers, strict=True) if layer.rope_factors}


def _repacked(group: TensorGroup, layouts: Layouts) -> tuple[int, int]:
    """Bytes of what is kept in layouts of the CPU's own, and how many of them are more than in the file's."""
    size = more = 0
    for matrix in group.matrices:
        layout = layout_of(matrix, layouts)
        if layout is not None:
            added = align(matrix.size + layout.more * matrix.n_blocks, ALIGNMENT) - matrix.size
            size, more = size + matrix.size + added, more + added
    return size, more


def _span(groups: Sequence[TensorGroup], shape: ModelShape) -> int:
    """Bytes of the pages from the first to the last tensor used where it lies: what is left mapped of a file."""
    used = [group for group in groups if group.size]
    if not used:
        return 0
    first = shape.data_offset + min(group.first for group in used)
    end = shape.data_offset + max(group.end for group in used)
    return -(-end // _PAGE) * _PAGE - first // _PAGE * _PAGE


def may_repack(header: GGUFHeader, layouts: Layouts) -> bool:
    """Tell whether a model may be run with its weights in these layouts: there are some, and none breaks it.

    AMX's takes stacks of matrices, of which it keeps the first alone (0c1e57098, ggml-cpu/amx: supports_op in amx.cpp,
    ggml_backend_amx_convert_weight in mmq.cpp): models with multi-head latent attention end the process.
    """
    return bool(layouts) and not any(layout_of(stack, layouts) for stack in stacks(header))


def largest_matrix(groups: Iterable[TensorGroup]) -> int:
    """Return the bytes of the largest matrix among them: what a device may copy to itself for a large batch."""
    return max((group.largest for group in groups), default=0)
