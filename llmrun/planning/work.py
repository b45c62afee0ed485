"""A header as time sees it: which matrices a token goes through, and how many heads look back. Pure.

Knows the names of tensors; knows nothing of machines, settings and seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmrun.gguf.header import GGUFHeader, TensorInfo
from llmrun.memory.attention import LayerMemory, n_layer_of, per_layer, remembering, window_of
from llmrun.memory.cache import row_size
from llmrun.memory.graph.shape import ComputeShape

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_EXPERTS = re.compile(r"^ffn_(up|down|gate|gate_up)_(ch|)exps\.")
_FEED_FORWARD = re.compile(r"^ffn_")
# weights of two dimensions that are looked up or applied element by element, not multiplied by
_NO_MATRIX = re.compile(r"(norm|conv1d|conv|ssm_a|token_types|position_embd)\.?(weight|bias)?$")


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix that a token is multiplied by: columns in, rows out.

    size: bytes. share: the part of it that one token needs, less than 1 for experts; n_expert: in so many parts.
    """

    type: str
    rows: int
    columns: int
    size: int
    share: float = 1.0
    n_expert: int = 1

    @property
    def n_weights(self) -> int:
        """Weights of all its parts."""
        return self.rows * self.columns * self.n_expert

    @property
    def n_conveyed(self) -> float:
        """Numbers that go in and come out for one token."""
        return (self.rows + self.columns) * self.share * self.n_expert


@dataclass(frozen=True, slots=True)
class Heads:
    """A layer's attention: heads of the query and of the cache, elements of a head's key and value.

    window: tokens it looks back on, None for all.
    """

    n_head: int
    n_head_kv: int
    k: int
    v: int
    window: int | None

    def multiplications(self, n_cells: float) -> float:
        """Return the multiply-adds of one token that looks back on n_cells."""
        return self.n_head * (self.k + self.v) * n_cells

    def cell_size(self, type_k: str, type_v: str) -> int:
        """Return the bytes of the cache one token needs of each earlier one."""
        return row_size(type_k, self.n_head_kv * self.k) + row_size(type_v, self.n_head_kv * self.v)


@dataclass(frozen=True, slots=True)
class LayerWork:
    """One layer's products, and its attention if it has any.

    experts are apart: they may stay on the host. feed_forward: products that the last layer does only for tokens whose
    logits are wanted.
    """

    attention: tuple[Product, ...]
    feed_forward: tuple[Product, ...]
    experts: tuple[Product, ...]
    heads: Heads | None


@dataclass(frozen=True, slots=True)
class ModelWork:
    """All layers' work, and that of the output, which is done once for every token that is drawn.

    Layers that are alike are one object, so that what was found out about one need not be found out again. graph: what
    tells what crosses to other machines; None where that is not asked, or not known.
    """

    architecture: str
    n_vocab: int
    layers: tuple[LayerWork, ...]
    output: tuple[Product, ...]
    graph: ComputeShape | None = field(default=None, repr=False, compare=False)

    def main_type(self) -> str:
        """Return the type most bytes are in."""
        sizes: dict[str, int] = {}
        for product in self.products():
            sizes[product.type] = sizes.get(product.type, 0) + product.size
        return max(sizes, key=lambda name: (sizes[name], name))

    def products(self) -> tuple[Product, ...]:
        """Return every product, the output's last."""
        layers = (p for layer in self.layers for p in (*layer.attention, *layer.feed_forward, *layer.experts))
        return (*layers, *self.output)


def model_work(header: GGUFHeader) -> ModelWork:
    """Return a model's work for a token.

    Raises UnknownArchitectureError where nobody knows what its layers remember, GGUFError for a header that lacks what
    a model needs.
    """
    n_all, n_layer = n_layer_of(header)
    memories = remembering(header)
    layers: list[list[tuple[str, TensorInfo]]] = [[] for _ in range(n_all)]
    outer: dict[str, TensorInfo] = {}
    for tensor in header.tensors:
        match = _LAYER.fullmatch(tensor.name)
        if match is None:
            outer[tensor.name] = tensor
        elif int(match[1]) < n_all:
            layers[int(match[1])].append((match[2], tensor))
    used = _used_share(header)
    output = outer.get("output.weight") or outer.get("token_embd.weight")
    works = (
        _layer(header, index, layers[index], memories[index], used) for index in range(min(n_layer, len(memories)))
    )
    one_of_each: dict[LayerWork, LayerWork] = {}
    return ModelWork(
        architecture=header.architecture,
        n_vocab=output.shape[1] if output is not None and len(output.shape) > 1 else 0,
        layers=tuple(one_of_each.setdefault(work, work) for work in works),
        output=() if output is None else _products([output], 1.0),
    )


def _used_share(header: GGUFHeader) -> float:
    n_expert = header.uint_or_none(header.arch("expert_count")) or 0
    used = header.uint_or_none(header.arch("expert_used_count")) or 0
    return min(used / n_expert, 1.0) if n_expert and used else 1.0


def _layer(
    header: GGUFHeader, index: int, tensors: Sequence[tuple[str, TensorInfo]], memory: LayerMemory, used: float
) -> LayerWork:
    experts = [tensor for name, tensor in tensors if _EXPERTS.search(name)]
    others = [(name, tensor) for name, tensor in tensors if not _EXPERTS.search(name)]
    return LayerWork(
        attention=_products([tensor for name, tensor in others if not _FEED_FORWARD.search(name)], 1.0),
        feed_forward=_products([tensor for name, tensor in others if _FEED_FORWARD.search(name)], 1.0),
        experts=_products(experts, used),
        heads=_heads(header, index, memory) if _attends(tensors, memory) else None,
    )


def _products(tensors: Sequence[TensorInfo], share: float) -> tuple[Product, ...]:
    """Return those of two dimensions, and of three, the third being experts."""
    found = (tensor for tensor in tensors if len(tensor.shape) in (2, 3) and not _NO_MATRIX.search(tensor.name))
    return tuple(
        Product(tensor.type.name, tensor.shape[1], tensor.shape[0], tensor.size, share, math.prod(tensor.shape[2:]))
        for tensor in found
    )


def _attends(tensors: Sequence[tuple[str, TensorInfo]], memory: LayerMemory) -> bool:
    """Tell whether a layer looks back, at its own cache or at another layer's; a recurrent one may have projections."""
    return memory.cache is not None or (not memory.state and any(name.startswith("attn_q.") for name, _ in tensors))


def _heads(header: GGUFHeader, index: int, memory: LayerMemory) -> Heads | None:
    n_all, _ = n_layer_of(header)
    n_head = per_layer(header, "attention.head_count", n_all, 0)[index]
    if not n_head:
        return None
    n_embd = header.uint(header.arch("embedding_length"))
    k = header.uint_or_none(header.arch("attention.key_length")) or n_embd // n_head
    v = header.uint_or_none(header.arch("attention.value_length")) or n_embd // n_head
    n_head_kv = per_layer(header, "attention.head_count_kv", n_all, n_head)[index]
    return Heads(n_head, n_head_kv, k, v, (window_of(header) or None) if memory.windowed else None)
