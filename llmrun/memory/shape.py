"""A header as memory sees it: how many bytes lie where in the file, and what each layer remembers.

Pure. Knows the names of tensors and the slots llama.cpp puts them into (llama.cpp 0c1e57098, src/llama-arch.cpp,
LLM_TENSOR_INFOS; src/llama-model.cpp, load_tensors); knows nothing of settings and devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from llmrun.errors import GGUFError
from llmrun.gguf.header import GGUFHeader, TensorInfo, align
from llmrun.hardware.layout import Matrix
from llmrun.memory.attention import (
    CacheShape,
    LayerMemory,
    n_layer_of,
    remembering,
    remembering_to_draft,
    window_of,
)

ALIGNMENT = 32  # ggml-backend.cpp, TENSOR_ALIGNMENT: what buffers of the CPU and of an RPC server of a CPU align to

_LAYER = re.compile(r"blk\.(\d+)\.")
# what `--cpu-moe` of llama.cpp's tools moves to the host (common/common.h, LLM_FFN_EXPS_REGEX)
# ggml-cuda.cu: get_alignment; get_alloc_size with MATRIX_ROW_PADDING. As found on a card, see tests/golden/measured.
_ROW_ALIGNMENT, _ROW_ELEMENTS = 128, 512
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")
_INPUT = frozenset({"token_embd", "per_layer_token_embd", "position_embd", "token_types"})
# without a layer's number, and yet the first layer's; LFM2 calls its output norm by one of these names
_FIRST_LAYER = frozenset({"token_embd_norm", "per_layer_model_proj", "per_layer_proj_norm"})
_OUTPUT_NORM = {"lfm2": "token_embd_norm", "lfm2moe": "token_embd_norm"}
# these make the tied output first, and then a second embedding beside it (models/*.cpp), whatever the pool
_EMBEDDING_TWICE = frozenset({"gemma3n", "gemma4"})
# in these the layers for drafting are not loaded (models/*.cpp: TENSOR_SKIP unless load_mtp)
_SKIPS_DRAFT_LAYERS = frozenset(
    {
        "bailingmoe2",
        "deepseek2",
        "exaone4",
        "glm4",
        "glm4moe",
        "hy_v3",
        "mimo2",
        "nemotron_h",
        "nemotron_h_moe",
        "qwen3next",
        "qwen35",
        "qwen35moe",
    }
)
# and of these layers some tensors are loaded even so (models/hy-v3.cpp: not required, and not skipped)
_LOADED_OF_DRAFT_LAYERS = {"hy_v3": re.compile(r"\.(ffn_(?!norm)|nextn\.(embed_tokens|shared_head))")}


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """Tensors that always lie together. size: with each padded as in a buffer; first, end: where in the file.

    row_padding: bytes more on a device whose last rows of quantized matrices are made longer.
    """

    size: int
    first: int
    end: int
    matrices: tuple[Matrix, ...] = ()
    row_padding: int = 0

    @property
    def largest(self) -> int:
        """Bytes of the largest matrix, 0 for none."""
        return max((matrix.size for matrix in self.matrices), default=0)


_NOTHING = TensorGroup(0, 0, 0)
_NONE = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer: its weights, those of its experts apart, its cache and its recurrent state's bytes a sequence.

    rope_factors: whether it uses the model's table of them.
    """

    weights: TensorGroup
    experts: TensorGroup
    cache: CacheShape | None
    state: int
    rope_factors: bool = True


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model's memory depends on.

    tied: the token embedding where it is also the output matrix, else None; llama.cpp then loads it a second time if
    the output is not where the input is. v_width_max: of all layers, which a transposed V cache is padded to.
    embedding_twice: whether a tied embedding is there twice also where both uses are on the host.
    rope_factors: bytes of tensors that every pool with a layer that uses them gets its own copy of.
    """

    architecture: str
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    n_swa: int
    layers: tuple[LayerShape, ...]
    input: TensorGroup
    output: TensorGroup
    tied: TensorGroup | None
    embedding_twice: bool
    rope_factors: int
    v_width_max: int
    data_offset: int
    file_size: int

    @property
    def n_layer(self) -> int:
        """Layers that can be placed, those for drafting included."""
        return len(self.layers)


def model_shape(header: GGUFHeader, *, drafts: bool = False) -> ModelShape:
    """Return what a model's memory depends on.

    drafts: with its layers for drafting loaded, and what these remember in the place of what the others do. Raises
    UnknownArchitectureError where the arithmetic does not know what the layers remember, GGUFError for a header that
    lacks what a model needs.
    """
    memories = remembering_to_draft(header) if drafts else remembering(header)
    n_all, _ = n_layer_of(header)
    slots = _slots(header.tensors, n_all, _OUTPUT_NORM.get(header.architecture))
    embedding = [tensor for tensor in slots.input if tensor.name == "token_embd.weight"]
    tied = bool(embedding) and not any(tensor.name == "output.weight" for tensor in slots.output)
    return ModelShape(
        architecture=header.architecture,
        n_ctx_train=header.uint(header.arch("context_length")),
        n_embd=header.uint(header.arch("embedding_length")),
        n_vocab=_n_vocab(header, embedding),
        n_swa=window_of(header),
        layers=_layers(header, slots.layers, memories, drafts=drafts),
        input=_group(slots.input, repackable=False),
        output=_group(slots.output),
        tied=_group(embedding) if tied else None,
        embedding_twice=tied and header.architecture in _EMBEDDING_TWICE,
        rope_factors=sum(_padded(tensor) for tensor in slots.rope_factors),
        v_width_max=max((memory.cache.v_width for memory in memories if memory.cache), default=0),
        data_offset=header.data_offset,
        file_size=header.file_size,
    )


def _layers(
    header: GGUFHeader, tensors: Sequence[Sequence[TensorInfo]], memories: Sequence[LayerMemory], *, drafts: bool
) -> tuple[LayerShape, ...]:
    n_all, n_layer = n_layer_of(header)
    loaded = n_layer if header.architecture in _SKIPS_DRAFT_LAYERS and not drafts else n_all
    even_so = _LOADED_OF_DRAFT_LAYERS.get(header.architecture, _NONE)
    layers = []
    for index, memory in enumerate(memories):
        own = [tensor for tensor in tensors[index] if index < loaded or even_so.search(tensor.name)]
        layers.append(
            LayerShape(
                weights=_group(t for t in own if not _EXPERTS.search(t.name)),
                experts=_group(t for t in own if _EXPERTS.search(t.name)),
                cache=memory.cache,
                state=memory.state,
                # gemma4's full layers alone have them (models/gemma4.cpp)
                rope_factors=not (header.architecture == "gemma4" and memory.windowed),
            )
        )
    return tuple(layers)


@dataclass(frozen=True, slots=True)
class _Slots:
    input: list[TensorInfo]
    output: list[TensorInfo]
    layers: list[list[TensorInfo]]
    rope_factors: list[TensorInfo]


def _slots(tensors: Sequence[TensorInfo], n_all: int, output_norm: str | None) -> _Slots:
    slots = _Slots([], [], [[] for _ in range(n_all)], [])
    for tensor in tensors:
        match = _LAYER.match(tensor.name)
        if match:
            if int(match[1]) >= n_all:
                raise GGUFError(f"there is a tensor {tensor.name}, but the model has {n_all} layers")
            slots.layers[int(match[1])].append(tensor)
        elif tensor.name.startswith("rope_f"):
            slots.rope_factors.append(tensor)
        elif tensor.name.rpartition(".")[0] in _INPUT:
            slots.input.append(tensor)
        elif tensor.name.rpartition(".")[0] in _FIRST_LAYER - {output_norm}:
            slots.layers[0].append(tensor)
        else:
            slots.output.append(tensor)
    return slots


def stacks(header: GGUFHeader) -> tuple[Matrix, ...]:
    """Return the matrices that are several in one tensor, all of them used by each token."""
    return tuple(_matrix(tensor) for tensor in header.tensors if _is_stack(tensor))


def slot_of(name: str) -> int | Literal["input", "output"]:
    """Return where llama.cpp counts a tensor to by its name: a layer's number, the input or the output."""
    if match := _LAYER.match(name):
        return int(match[1])
    stem = name.rpartition(".")[0]
    return "input" if stem in _INPUT else 0 if stem in _FIRST_LAYER else "output"


def _padded(tensor: TensorInfo) -> int:
    return align(tensor.size, ALIGNMENT)


def _padded_row(tensor: TensorInfo) -> int:
    kind, missing = tensor.type, -tensor.shape[0] % _ROW_ELEMENTS
    longer = missing // kind.block_size * kind.type_size if kind.block_size > 1 else 0
    return align(tensor.size + longer, _ROW_ALIGNMENT)


def _group(tensors: Iterable[TensorInfo], *, repackable: bool = True) -> TensorGroup:
    found = list(tensors)
    if not found:
        return _NOTHING
    return TensorGroup(
        size=sum(map(_padded, found)),
        first=min(tensor.offset for tensor in found),
        end=max(tensor.offset + tensor.size for tensor in found),
        matrices=tuple(_matrix(tensor) for tensor in found if repackable and _is_matrix(tensor)),
        row_padding=sum(_padded_row(tensor) - _padded(tensor) for tensor in found),
    )


def _is_expert(tensor: TensorInfo) -> bool:
    return len(tensor.shape) == 3 and _EXPERTS.search(tensor.name) is not None


def _is_matrix(tensor: TensorInfo) -> bool:
    """A matrix by which activations are multiplied: two dimensions, or three where the third are experts."""
    return len(tensor.shape) == 2 or _is_expert(tensor)


def _is_stack(tensor: TensorInfo) -> bool:
    return len(tensor.shape) == 3 and not _is_expert(tensor)


def _matrix(tensor: TensorInfo) -> Matrix:
    columns, rows = tensor.shape[:2]
    n_blocks = tensor.n_elements // tensor.type.block_size
    return Matrix(tensor.type.name, rows, columns, n_blocks, _padded(tensor), _is_expert(tensor), _is_stack(tensor))


def _n_vocab(header: GGUFHeader, embedding: Sequence[TensorInfo]) -> int:
    found = header.uint_or_none(header.arch("vocab_size"))
    if found is None:
        found = header.array_length_or_none("tokenizer.ggml.tokens")
    if found is None and embedding:
        found = embedding[0].shape[1]
    if found is None:
        raise GGUFError("the size of the vocabulary is missing")
    return found
