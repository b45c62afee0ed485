"""Models made to be measured: headers without weights, each heavy in one kind of work. Pure.

Their weights are zeros, which take the same time as others: the kernels do the same whatever the numbers are. Only
where numbers decide what is done, or would be denormal, some are given.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from llmrun.gguf.encode import build_header
from llmrun.gguf.header import Entry, GGMLType, GGUFHeader, TensorInfo, ValueType
from llmrun.gguf.types import ggml_type_named

_F32 = ggml_type_named("F32")
_EXPERTS_N_EMBD = 2048
_BLOCK = 256  # elements; whole blocks of every type
# first byte of a block: an exponent of 2, above 127; with 0 each product would be a denormal, which takes longer
_EXPONENT = {"MXFP4": 120}


@dataclass(frozen=True, slots=True)
class Probe:
    """Sizes of a model of llama.cpp's architecture "llama", all its matrices of one type.

    varied: whether its embedding has numbers, so that logits differ.
    """

    type: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int = 1
    n_head_kv: int = 1
    head: int = 256
    n_vocab: int = 256
    n_ctx: int = 2048
    n_expert: int = 0
    n_expert_used: int = 0
    varied: bool = False


# Nothing but layers, so that what a layer costs by itself can be seen; matrices that stay in a core's cache.
FEW_LAYERS = Probe("Q8_0", 4, 128, 128, head=32)
MANY_LAYERS = Probe("Q8_0", 36, 128, 128, head=32)
# Mostly heads: four to each of the cache's, as in most models of today.
HEADS = Probe("Q8_0", 4, 128, 128, n_head=8, n_head_kv=2, head=128)
# A cache of many layers, which does not stay in the processor's: 4 KiB for each layer's tokens.
CACHE = Probe("Q8_0", 64, 32, 32, n_head=8, n_head_kv=8, head=128)
# Mostly vocabulary.
TOKENS = Probe("Q8_0", 1, 128, 128, head=32, n_vocab=16384, varied=True)


def wide(type_name: str, size: int) -> Probe:
    """Return a model with matrices of about `size` bytes together, nearly all of them the feed-forward of a 1B model.

    Its rows of 8192 are as long as a core's cache holds for a batch: with shorter ones batches seem faster.
    """
    return Probe(type_name, max(2, _weights(type_name, size) // (3 * 2048 * 8192)), 2048, 8192)


def narrow(type_name: str, size: int) -> Probe:
    """Return a model of the same size with rows as short as a 0.6B model's."""
    return Probe(type_name, max(2, _weights(type_name, size) // (3 * 1024 * 3072)), 1024, 3072)


def _weights(type_name: str, size: int) -> int:
    kind = ggml_type_named(type_name)
    return size * kind.block_size // kind.type_size


def with_experts(type_name: str, size: int) -> Probe:
    """Return a model of two layers, each with experts of about `size` bytes, an eighth of which a token uses.

    A batch computes only the first layer's. With fewer experts what a layer does besides weighs too much: two used of
    16 took 77 ps for each weight and token, four of 32 68, eight of 64 63 (Q4_K, 128 tokens, 2026-11).
    """
    kind = ggml_type_named(type_name)
    n_ff = 768  # as the experts of a 30B model that uses 3B
    each = 3 * n_ff * _EXPERTS_N_EMBD // kind.block_size * kind.type_size
    n_expert = max(16, min(512, size // each // 8 * 8))
    return Probe(type_name, 2, _EXPERTS_N_EMBD, n_ff, n_expert=n_expert, n_expert_used=n_expert // 8, varied=True)


def header_of(probe: Probe) -> GGUFHeader:
    """Return the header of a file with this model."""
    keys = {
        "context_length": probe.n_ctx,
        "embedding_length": probe.n_embd,
        "block_count": probe.n_layer,
        "feed_forward_length": probe.n_ff,
        "attention.head_count": probe.n_head,
        "attention.head_count_kv": probe.n_head_kv,
        "attention.key_length": probe.head,
        "attention.value_length": probe.head,
        "rope.dimension_count": probe.head,
        "vocab_size": probe.n_vocab,
    }
    if probe.n_expert:
        keys |= {"expert_count": probe.n_expert, "expert_used_count": probe.n_expert_used}
    metadata = {"general.architecture": Entry(ValueType.STRING, "llama")}
    metadata |= {f"llama.{key}": Entry(ValueType.UINT32, value) for key, value in keys.items()}
    metadata["llama.attention.layer_norm_rms_epsilon"] = Entry(ValueType.FLOAT32, 1e-5)
    metadata["tokenizer.ggml.model"] = Entry(ValueType.STRING, "no_vocab")
    return build_header(3, metadata, _tensors(probe))


def _tensors(probe: Probe) -> Iterator[TensorInfo]:
    kind, e = ggml_type_named(probe.type), probe.n_embd
    embedding = ggml_type_named("Q8_0") if probe.varied else kind
    yield TensorInfo("token_embd.weight", (e, probe.n_vocab), embedding, 0)
    yield TensorInfo("output_norm.weight", (e,), _F32, 0)
    for index in range(probe.n_layer):
        for name, shape, type_ in _block(probe, kind):
            yield TensorInfo(f"blk.{index}.{name}.weight", shape, type_, 0)


def _block(probe: Probe, kind: GGMLType) -> Iterator[tuple[str, tuple[int, ...], GGMLType]]:
    e, width, width_kv = probe.n_embd, probe.n_head * probe.head, probe.n_head_kv * probe.head
    yield "attn_norm", (e,), _F32
    yield "attn_q", (e, width), kind
    yield "attn_k", (e, width_kv), kind
    yield "attn_v", (e, width_kv), kind
    yield "attn_output", (width, e), kind
    yield "ffn_norm", (e,), _F32
    experts = (probe.n_expert,) if probe.n_expert else ()
    suffix = "_exps" if probe.n_expert else ""
    if probe.n_expert:
        yield "ffn_gate_inp", (e, probe.n_expert), _F32
    yield f"ffn_gate{suffix}", (e, probe.n_ff, *experts), kind
    yield f"ffn_up{suffix}", (e, probe.n_ff, *experts), kind
    yield f"ffn_down{suffix}", (probe.n_ff, e, *experts), kind


def needed_numbers(probe: Probe, header: GGUFHeader) -> Iterator[tuple[int, bytes]]:
    """Yield what must not be zero, each with its place in the file.

    With experts that is whatever chooses them, or every token would choose the same few, and they stay in the cache.
    """
    rng = random.Random(0)  # noqa: S311 -- numbers that differ, no secrets
    for tensor in header.tensors:
        place = header.data_offset + tensor.offset
        if tensor.type.name in _EXPONENT:
            block = bytes([_EXPONENT[tensor.type.name]]) + bytes(tensor.type.type_size - 1)
            yield place, block * (tensor.size // tensor.type.type_size)
        elif not probe.varied:
            continue
        elif tensor.name.endswith("norm.weight"):
            yield place, struct.pack("<f", 1.0) * tensor.n_elements
        elif tensor.name == "token_embd.weight":
            scale = struct.pack("<e", 0.01)
            yield place, b"".join(scale + rng.randbytes(32) for _ in range(tensor.n_elements // 32))
        elif tensor.name.endswith("gate_inp.weight"):
            yield place, struct.pack(f"<{tensor.n_elements}f", *(rng.gauss(0, 1) for _ in range(tensor.n_elements)))
