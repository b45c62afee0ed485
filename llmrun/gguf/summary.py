"""What a person wants to know of a file, drawn from its header. Pure; knows nothing of memory or of how it is shown."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from types import MappingProxyType

from llmrun.errors import GGUFError
from llmrun.gguf.header import Entry, GGUFHeader, ValueType

# general.file_type -> the label people know (llama.h, enum llama_ftype)
QUANTS = MappingProxyType(
    dict(
        zip(
            [*range(5), *range(7, 33), 36, 37, 38, 39, 40, 41],
            [
                "F32",
                "F16",
                "Q4_0",
                "Q4_1",
                "Q4_1",
                "Q8_0",
                "Q5_0",
                "Q5_1",
                "Q2_K",
                "Q3_K_S",
                "Q3_K_M",
                "Q3_K_L",
                "Q4_K_S",
                "Q4_K_M",
                "Q5_K_S",
                "Q5_K_M",
                "Q6_K",
                "IQ2_XXS",
                "IQ2_XS",
                "Q2_K_S",
                "IQ3_XS",
                "IQ3_XXS",
                "IQ1_S",
                "IQ4_NL",
                "IQ3_S",
                "IQ3_M",
                "IQ2_S",
                "IQ2_M",
                "IQ4_XS",
                "IQ1_M",
                "BF16",
                "TQ1_0",
                "TQ2_0",
                "MXFP4",
                "NVFP4",
                "Q1_0",
                "Q2_0",
            ],
            strict=True,
        )
    )
)


@dataclass(frozen=True, slots=True)
class TypeShare:
    """Tensors of one GGML type: how many, their weights, and their bytes."""

    type: str
    n_tensors: int
    n_elements: int
    size: int


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A file in figures; None is what the file does not say. Ranges are (smallest, largest) over the layers.

    bpw: bits per weight, measured on all tensors, whatever the file calls itself. size: bytes of all its files.
    """

    name: str | None
    architecture: str
    license: str | None
    quant: str | None
    n_params: int
    size: int
    tensor_bytes: int
    bpw: float
    mix: tuple[TypeShare, ...]
    n_layer: int | None
    n_layer_draft: int
    n_embd: int | None
    n_head: tuple[int, int] | None
    n_head_kv: tuple[int, int] | None
    n_ctx_train: int | None
    n_swa: int | None
    n_expert: int | None
    n_expert_used: tuple[int, int] | None
    n_vocab: int | None
    tokenizer: str | None
    tokenizer_pre: str | None
    chat_template: str | None
    gguf_version: int


def summarize(header: GGUFHeader) -> ModelSummary:
    """Return a file's figures; raises GGUFError only where it does not even name an architecture."""
    n_params = header.n_elements
    return ModelSummary(
        name=_text(header, "general.name"),
        architecture=header.architecture,
        license=_text(header, "general.license"),
        quant=None if (file_type := _number(header, "general.file_type")) is None else QUANTS.get(file_type),
        n_params=n_params,
        size=header.file_size,
        tensor_bytes=header.tensor_bytes,
        bpw=header.tensor_bytes * 8 / n_params if n_params else 0.0,
        mix=_mix(header),
        n_layer=_number(header, header.arch("block_count")),
        n_layer_draft=_number(header, header.arch("nextn_predict_layers")) or 0,
        n_embd=_number(header, header.arch("embedding_length")),
        n_head=_range(header, header.arch("attention.head_count")),
        n_head_kv=_range(header, header.arch("attention.head_count_kv")),
        n_ctx_train=_number(header, header.arch("context_length")),
        n_swa=_number(header, header.arch("attention.sliding_window")),
        n_expert=_number(header, header.arch("expert_count")),
        n_expert_used=_range(header, header.arch("expert_used_count")),
        n_vocab=_vocabulary(header),
        tokenizer=_text(header, "tokenizer.ggml.model"),
        tokenizer_pre=_text(header, "tokenizer.ggml.pre"),
        chat_template=_text(header, "tokenizer.chat_template"),
        gguf_version=header.version,
    )


def _mix(header: GGUFHeader) -> tuple[TypeShare, ...]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for tensor in header.tensors:
        share = counts[tensor.type.name]
        share[0] += 1
        share[1] += tensor.n_elements
        share[2] += tensor.size
    shares = (TypeShare(name, *numbers) for name, numbers in counts.items())
    return tuple(sorted(shares, key=lambda share: -share.size))


def _entry(header: GGUFHeader, key: str) -> Entry | None:
    return header.metadata.get(key)


def _text(header: GGUFHeader, key: str) -> str | None:
    entry = _entry(header, key)
    return entry.value if entry is not None and isinstance(entry.value, str) and entry.value else None


def _number(header: GGUFHeader, key: str) -> int | None:
    """A whole number; a file to be looked at may hold anything, so what is none is as good as missing."""
    try:
        return header.uint_or_none(key)
    except GGUFError:
        return None


def _range(header: GGUFHeader, key: str) -> tuple[int, int] | None:
    entry = _entry(header, key)
    if entry is None:
        return None
    try:
        values = header.uints_or_none(key) if entry.type is ValueType.ARRAY else (header.uint(key),)
    except GGUFError:
        return None
    return (min(values), max(values)) if values else None


def _vocabulary(header: GGUFHeader) -> int | None:
    try:
        found = header.array_length_or_none("tokenizer.ggml.tokens")
    except GGUFError:
        found = None
    return _number(header, header.arch("vocab_size")) if found is None else found
