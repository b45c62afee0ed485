"""The header of one quantization made into that of another of the same model, of which only label and size are known.

Pure. Tensors and shapes are the model's and stay; types are chosen so that the file comes out as large as the other is:
most matrices in the type of its label, the ones that lose most in better ones, as llama.cpp's quantizer does
(src/llama-quant.cpp, llama_tensor_get_type_impl).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from llmrun.gguf.encode import lay_out
from llmrun.gguf.header import GGMLType, GGUFHeader, TensorInfo, align
from llmrun.gguf.types import ggml_type_named

# By bits per weight, worst first. IQ4_NL and the types with a 0 or 1 are only chosen where a row is no whole blocks of
# the others, or where the label says so.
_LADDER = tuple(
    map(
        ggml_type_named,
        ("IQ1_S", "IQ2_XXS", "IQ2_XS", "Q2_K", "IQ3_XXS", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16"),
    )
)
_LONG_BLOCK = 256  # weights; a row that is no multiple of it takes what stands here (tensor_type_fallback)
_FALLBACKS = MappingProxyType({"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0"})
_OTHERWISE = "IQ4_NL"
# labels whose types are called otherwise: mixes of several, and other words for the same
_BASES = MappingProxyType(
    {"IQ3_XS": "IQ3_XXS", "IQ3_M": "IQ3_S", "IQ2_M": "IQ2_S", "MXFP4_MOE": "MXFP4", "FP16": "F16", "FP32": "F32"}
)
_SUFFIX = re.compile(r"(?<=_K)_\w+$|(?<=_NL)_\w+$|(?<=_XS)_X?L$|(?<=_S)_X?L$")
# published in these bits: every quantization of the model keeps them
_KEPT = "MXFP4"
_PUBLISHED_SO = frozenset({"gpt-oss"})


def likeness(header: GGUFHeader, quant: str | None, size: int) -> GGUFHeader:
    """Return what the header of a file of `size` bytes with another quantization of the model is like.

    quant: its label, None is unknown. What is kept of metadata is all but `general.file_type`. Its tensors together are
    as near to the size as a tensor's type can bring them.
    """
    wanted = max(0, size - header.data_offset)
    kept = _KEPT if header.architecture in _PUBLISHED_SO else None
    tensors = _filled(list(header.tensors), _base(quant, header, wanted), wanted, header.alignment, kept)
    metadata = {key: entry for key, entry in header.metadata.items() if key != "general.file_type"}
    return replace(header, metadata=MappingProxyType(metadata), tensors=lay_out(tensors, header.alignment))


def _base(quant: str | None, header: GGUFHeader, wanted: int) -> GGMLType:
    """Return the type most matrices have by the label, else the best with which the file is not too large."""
    label = _SUFFIX.sub("", (quant or "").upper().removeprefix("UD-").removeprefix("I1-"))
    try:
        return ggml_type_named(_BASES.get(label, label))
    except KeyError:
        bits = 8 * wanted / max(1, header.n_elements)
        return next((kind for kind in reversed(_LADDER) if _bits(kind) <= bits), _LADDER[0])


def _bits(kind: GGMLType) -> float:
    return 8 * kind.type_size / kind.block_size


def _filled(
    tensors: list[TensorInfo], base: GGMLType, wanted: int, alignment: int, kept: str | None
) -> list[TensorInfo]:
    """Return the tensors in the base type, then raised or lowered one by one until they take what is wanted.

    kept: the type of tensors that stay as they are.
    """
    places = [place for place in _by_loss(tensors) if _may_change(tensors[place], kept)]
    for place in places:
        tensors[place] = replace(tensors[place], type=_fitting(base, tensors[place].shape[0]))
    gap = wanted - sum(align(tensor.size, alignment) for tensor in tensors)
    rises = gap >= 0
    for _ in _LADDER:
        before = gap
        for place in places if rises else places[::-1]:
            for _ in range(2):  # two steps at once are what separates Q4_K and Q6_K in Q4_K_M
                if rises or gap < 0:
                    gap = _changed(tensors, place, gap, alignment, rises=rises)
        if gap == before:
            break
    return tensors


def _changed(tensors: list[TensorInfo], place: int, gap: int, alignment: int, *, rises: bool) -> int:
    """Take a tensor's next better or worse type if that brings the size nearer; return what is lacking then."""
    tensor = tensors[place]
    kind = _next(tensor.type, tensor.shape[0], rises=rises)
    if kind is None:
        return gap
    changed = replace(tensor, type=kind)
    left = gap - align(changed.size, alignment) + align(tensor.size, alignment)
    if rises and left < 0:
        return gap
    tensors[place] = changed
    return left


@lru_cache(maxsize=1024)
def _next(kind: GGMLType, row: int, *, rises: bool) -> GGMLType | None:
    """Return the next better or worse type for rows of so many weights, None at the end of the ladder.

    A better one than a K-quant is another of them: the quantizer mixes them with their like.
    """
    for other in _LADDER if rises else _LADDER[::-1]:
        if rises and kind.name.endswith("_K") and other.name.startswith("IQ"):
            continue
        fitting = _fitting(other, row)
        if (_bits(fitting) > _bits(kind)) if rises else (_bits(fitting) < _bits(kind)):
            return fitting
    return None


def _fitting(kind: GGMLType, row: int) -> GGMLType:
    """Return the type, or what stands for it where a row is no whole blocks of it."""
    if row % kind.block_size == 0:
        return kind
    other = ggml_type_named(_FALLBACKS.get(kind.name, _OTHERWISE))
    return other if row % other.block_size == 0 else ggml_type_named("F16")


def _may_change(tensor: TensorInfo, kept: str | None) -> bool:
    """Whether the quantizer takes a tensor: matrices, but no norms, routers, convolutions (llama-quant.cpp)."""
    if tensor.type.name == kept:
        return False
    if len(tensor.shape) < 2 or not tensor.name.endswith("weight") or tensor.shape[0] % 32:
        return False
    return not any(part in tensor.name for part in ("_norm", "ffn_gate_inp", "ssm_conv1d", "altup", "laurel"))


def _by_loss(tensors: Sequence[TensorInfo]) -> list[int]:
    """Return the places of the tensors, those first that lose most when they are quantized."""
    tied = all(tensor.name != "output.weight" for tensor in tensors)
    first = "token_embd.weight" if tied else "output.weight"
    return sorted(range(len(tensors)), key=lambda place: (_rank(tensors[place].name, first), place))


def _rank(name: str, first: str) -> int:
    if name == first:
        return 0
    layer = re.match(r"blk\.(\d+)\.", name)
    later = int(layer[1]) % 2 if layer else 0
    if "attn_v." in name or "attn_qkv." in name or "ffn_down" in name:
        return 1 + later
    if "attn_" in name or "ssm_" in name:
        return 3
    return 4
