"""The pools of a dry run by the log, where llama.cpp's table of buffers is out of reach: Windows, macOS.

The log prints 0.00 for buffers that are not allocated. What it does say is where each layer goes, the size of a whole
KV cache, and every compute buffer; weights follow from the header. Which weights the CPU repacks it does not say: they
are counted, and `repack` stays 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from llmrun.errors import EngineError
from llmrun.gguf.header import GGUFHeader, TensorInfo, align
from llmrun.gguf.parse import parse_header
from llmrun.memory.engine_memory import BufferSizes
from llmrun.settings import RunSettings
from llmrun.worker.log_sizes import parse_buffers, parse_cached_layers, parse_layers
from llmrun.worker.memory_report import LogSizes, Pools, default_type_name

_LAYER = re.compile(r"blk\.(\d+)\.")
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")
# Tensors of no layer (llama-arch.cpp, LLM_TENSOR_INFOS): some stay on the host wherever the layers go, some count as
# the first layer's, and the rest goes with the output.
_INPUT = re.compile(r"(token_embd|position_embd|token_types|per_layer_token_embd|masked_embd_\w+)\.")
_FIRST = re.compile(r"(token_embd_norm|per_layer_model_proj|per_layer_proj_norm)\.")
_UNUSED = re.compile(r"model has unused tensor (\S+) \(size = \d+ bytes\)")
_FACTORS = re.compile(r"rope_factors_(long|short)|rope_freqs")  # a copy on each device that has layers
# They make the output before the embedding it is a copy of, and so find nothing to share (models/gemma3n.cpp, gemma4)
_NEVER_SHARED = ("gemma3n", "gemma4")


def sizes_by_header(header: bytes, settings: RunSettings) -> LogSizes:
    """Return how to read the pools of a dry run out of its log, debug lines included."""

    def by_log(lines: Sequence[str], pools: Pools) -> tuple[BufferSizes, ...]:
        own = {name: number for number, name in enumerate(pools.names, 1)}
        parsed = parse_header(header)
        if not isinstance(parsed, GGUFHeader):
            raise EngineError("the header is not whole, so what it describes cannot be counted")
        unused = {match[1] for line in lines if (match := _UNUSED.search(line))}
        used = [tensor for tensor in parsed.tensors if tensor.name not in unused]
        places = [own.get(name, 0) for name in parse_layers(lines)]
        shares = parsed.architecture not in _NEVER_SHARED
        weights = _weights(used, parsed.alignment, places, settings.cpu_experts, shares=shares)
        caches = Counter[int]()
        for name, size in parse_cached_layers(lines):
            caches[own.get(name, 0)] += size
        types = {default_type_name(pointer): number for number, pointer in enumerate(pools.pointers, 1)}
        computes = Counter[int]()
        for line in parse_buffers(lines):
            target = {"compute": computes, "RS": caches, "state": caches}.get(line.kind)
            if target is not None:
                target[types.get(line.name, 0)] += line.size
        return tuple(
            BufferSizes(name, weights[number], caches[number], computes[number])
            for number, name in enumerate((None, *pools.ids))
        )

    return by_log


def _weights(
    tensors: Sequence[TensorInfo], alignment: int, places: Sequence[int], cpu_experts: int, *, shares: bool
) -> Mapping[int, int]:
    """Bytes of weights by pool, 0 the host; places: each layer's, the output's last (llama-model.cpp, load_tensors)."""
    found = Counter[int]()
    tied = "output.weight" not in {tensor.name for tensor in tensors}
    for tensor in tensors:
        size = align(tensor.size, alignment)
        for place in _places(tensor.name, places, cpu_experts):
            found[place] += size
        if tensor.name == "token_embd.weight" and tied and (places[-1] != 0 or not shares):
            found[places[-1]] += size  # what is also the output is there twice
    return found


def _places(name: str, places: Sequence[int], cpu_experts: int) -> set[int]:
    if match := _LAYER.match(name):
        layer = int(match[1])
        return {0} if layer < cpu_experts and _EXPERTS.search(name) else {places[layer]}
    if _FACTORS.match(name):
        return set(places[:-1])
    if _INPUT.match(name):
        return {0}
    return {places[0] if _FIRST.match(name) else places[-1]}
