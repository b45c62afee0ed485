"""Where the matrices of LoRA adapters go: each to the buffer type of the tensor it stands beside. Pure.

Source: llama.cpp 0c1e57098, src/llama-adapter.cpp, llama_adapter_lora_init_impl. Adapters are read and never mapped;
one beside a repacked tensor is not repacked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmrun.gguf.adapter import Adapter
from llmrun.gguf.header import align
from llmrun.memory.placement import Placement
from llmrun.memory.shape import ALIGNMENT, slot_of

_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")  # see llmrun.memory.shape
# ggml_backend_*_buffer_type_get_alignment; of drivers that ask their card the largest that is usual
_ALIGNMENTS = {"CPU": ALIGNMENT, "RPC": ALIGNMENT, "MTL": 32}
_OTHER_ALIGNMENT = 128


def place_adapters(
    adapters: Sequence[Adapter], placement: Placement, backends: Sequence[str], cpu_experts: int = 0
) -> tuple[int, ...]:
    """Return the bytes of all adapters on the host and then on each device.

    backends: the kinds of the devices' drivers, in order. cpu_experts: in so many first layers the experts' tensors,
    and with them what stands beside them, are on the host.
    """
    sizes = [0] * (1 + len(backends))
    alignments = (ALIGNMENT, *(_ALIGNMENTS.get(name, _OTHER_ALIGNMENT) for name in backends))
    for adapter in adapters:
        for pair in adapter.pairs:
            place = pool_of_tensor(pair.base, placement, cpu_experts)
            pool = 0 if place is None else place + 1
            sizes[pool] += align(pair.a.size, alignments[pool]) + align(pair.b.size, alignments[pool])
    return tuple(sizes)


def pool_of_tensor(name: str, placement: Placement, cpu_experts: int = 0) -> int | None:
    """Return the device of a model's tensor, None for the host."""
    slot = slot_of(name)
    if slot == "input":
        return None
    if slot == "output":
        return placement.output
    if slot < cpu_experts and _EXPERTS.search(name):
        return None
    return placement.layers[slot] if slot < len(placement.layers) else None
