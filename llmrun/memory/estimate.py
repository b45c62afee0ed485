"""What a model takes with given settings, by arithmetic on its header: exact where a rule is known, a band elsewhere.

Pure: for machines that are not here, for thousands of settings at once, and for where no engine is installed. The
engine's own answer, the dry run, is better where it can be had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from llmrun.errors import GGUFError, UnknownArchitectureError
from llmrun.gguf.adapter import Adapter
from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.device import UNIFIED_BACKENDS, Device
from llmrun.hardware.layout import Layouts
from llmrun.memory.adapters import place_adapters
from llmrun.memory.cache import ContextMemory, place_context
from llmrun.memory.compute import compute_shape, estimate_compute, flash_attention, output_bytes
from llmrun.memory.context import context_shape
from llmrun.memory.footprint import Band, Estimate, Footprint, MemoryBreakdown
from llmrun.memory.graph.shape import ComputeShape
from llmrun.memory.overhead import device_overhead, host_overhead
from llmrun.memory.placement import Placement, place_layers
from llmrun.memory.shape import ModelShape, model_shape
from llmrun.memory.weights import PINNED_BACKENDS, WeightBytes, place_weights
from llmrun.settings import MTP, RunSettings

_MAPPED_MODES = frozenset({"mmap", "mmap_mlock"})


def maps_file(settings: RunSettings, devices: Sequence[Device] = ()) -> bool:
    """Whether weights on the host are pages of the file.

    Left to llama.cpp they are not where a device cannot take such memory (src/llama-model.cpp, mmap_support).
    """
    if settings.load_mode == "auto":
        return not any(_needs_copies(device) for device in devices)
    return settings.load_mode in _MAPPED_MODES


def _needs_copies(device: Device) -> bool:
    integrated = device.unified and device.backend not in UNIFIED_BACKENDS
    return integrated or device.backend in ("OpenCL", "HTP")


@dataclass(frozen=True, slots=True)
class Machine:
    """What of the machine changes how much memory a model takes.

    layouts: what the CPU repacks, and how (see hardware.cpu). host_free: bytes; llama.cpp takes them for a device that
    does not tell its own.
    """

    devices: tuple[Device, ...] = ()
    layouts: Layouts = field(default_factory=lambda: MappingProxyType({}))
    host_free: int = 0

    @property
    def pins(self) -> bool:
        """Whether a driver with pinned host memory is there: then nothing is repacked."""
        return any(device.backend in PINNED_BACKENDS for device in self.devices)

    def tensor_split(self, settings: RunSettings) -> tuple[float, ...]:
        """Return the parts of the layers for each device: the given ones, else by free memory, as llama.cpp does."""
        if settings.tensor_split is not None:
            return settings.tensor_split
        parts = tuple(float(self.host_free if device.free is None else device.free) for device in self.devices)
        return parts if any(parts) else (1.0,) * len(parts)


def vocabulary_counts(header: GGUFHeader) -> tuple[int, int]:
    """Return the number of tokens and of merges a file's tokenizer has."""
    keys = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    tokens, merges = (header.array_length_or_none(key) or 0 for key in keys)
    return tokens, merges


@contextmanager
def _making_sense() -> Iterator[None]:
    """Say of a header whose numbers make no sense here what is said of one that is not known."""
    try:
        yield
    except UnknownArchitectureError:
        raise
    except GGUFError as error:
        raise UnknownArchitectureError(error.message, error.hint) from error
    except (ArithmeticError, LookupError, ValueError) as error:  # sizes of 0, missing dimensions, not a number
        raise UnknownArchitectureError(f"its header contradicts itself: {error!r}") from error


class Estimator:
    """One model's arithmetic: made once from its header and those of its adapters, asked for many settings."""

    def __init__(self, header: GGUFHeader, adapters: Sequence[Adapter] = ()) -> None:
        """Raises UnknownArchitectureError for a header that the arithmetic cannot make sense of; the engine may."""
        with _making_sense():
            self.shape: ModelShape = model_shape(header)
            self.graph: ComputeShape = compute_shape(header, adapters)
            self._drafting = model_shape(header, drafts=True)
        self._adapters = tuple(adapters)
        self._vocabulary = vocabulary_counts(header)
        self._n_tensors = len(header.tensors) + sum(len(adapter.header.tensors) for adapter in adapters)

    def placement(self, settings: RunSettings, machine: Machine) -> Placement:
        """Return where each layer goes."""
        return place_layers(self.shape.n_layer, settings.n_gpu_layers, machine.tensor_split(settings))

    def weights(self, settings: RunSettings, machine: Machine) -> WeightBytes:
        """Return where the weights go."""
        return place_weights(
            self._drafting if settings.draft == MTP else self.shape,
            self.placement(settings, machine),
            [device.backend for device in machine.devices],
            mmap=maps_file(settings, machine.devices),
            cpu_experts=settings.cpu_experts,
            layouts=machine.layouts if settings.repack and not machine.pins else None,
        )

    def estimate(self, settings: RunSettings, machine: Machine = Machine()) -> Estimate:
        """Return the footprint with these settings on the host and the machine's devices.

        Raises UnknownArchitectureError as the construction does.
        """
        with _making_sense():
            return self._estimate(settings, machine)

    def draft_layers(self, settings: RunSettings, machine: Machine = Machine()) -> Footprint:
        """Return what the context of the layers for drafting takes beside the model's own, whose weights they share.

        settings: that context's. Its caches are exact; its graph is no more than the model's, which is taken for it.
        Raises UnknownArchitectureError as the construction does.
        """
        with _making_sense():
            found = self._estimate(settings, machine, self._drafting).footprint
        parts = (replace(used, weights=0, overhead=0, mapped=0) for used in (found.host, *found.devices))
        host, *devices = parts
        return Footprint(host, tuple(devices))

    def _estimate(self, settings: RunSettings, machine: Machine, shape: ModelShape | None = None) -> Estimate:
        context = context_shape(settings, self.shape.n_ctx_train)
        placement = self.placement(settings, machine)
        n_devices = len(machine.devices)
        weights = self.weights(settings, machine)
        memory = place_context(
            shape or self.shape,
            context,
            placement,
            n_devices,
            type_k=settings.type_k,
            type_v=settings.type_v,
            flash_attn=flash_attention(self.graph, settings),
            offload=settings.offload_kqv,
        )
        backends = tuple(device.backend for device in machine.devices)
        compute = estimate_compute(self.graph, context, settings, placement, n_devices, backends)
        output = output_bytes(self.graph, context, settings)
        host = self._host(weights, memory[0], compute[0].high + output, settings, context.n_ctx)
        adapters = place_adapters(self._adapters, placement, backends, settings.cpu_experts)
        host = replace(host, weights=host.weights + adapters[0])
        sizes = (size + more for size, more in zip(weights.devices, adapters[1:], strict=True))
        devices = [
            MemoryBreakdown(size, kept.kv_cache + kept.state, band.high, device_overhead(device.backend))
            for size, kept, band, device in zip(sizes, memory[1:], compute[1:], machine.devices, strict=True)
        ]
        return _estimate(Footprint(host, tuple(devices)), compute, output, memory)

    def _host(
        self, weights: WeightBytes, memory: ContextMemory, compute: int, settings: RunSettings, n_ctx: int
    ) -> MemoryBreakdown:
        n_threads = max(settings.n_threads, settings.n_threads_batch)
        overhead = host_overhead(*self._vocabulary, n_ctx, n_threads, self._n_tensors)
        return MemoryBreakdown(
            weights.host, memory.kv_cache + memory.state, compute, overhead.total, weights.mapped + overhead.mapped
        )


def _estimate(
    footprint: Footprint, compute: tuple[Band, ...], output: int, memory: Sequence[ContextMemory]
) -> Estimate:
    return Estimate(
        footprint,
        compute,
        output,
        kv_cache=sum(kept.kv_cache for kept in memory),
        state=sum(kept.state for kept in memory),
    )
