"""A model as its header describes it: hyperparameters and the names and shapes of its tensors. Knows no file format.

Shapes are in ggml's order everywhere in this package: ne0 (the row) first, as in a GGUF file's tensor infos.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import prod
from typing import NamedTuple, Protocol

Value = int | float | bool | str | tuple[int, ...] | tuple[float, ...] | tuple[bool, ...] | tuple[str, ...]
Hyperparameters = dict[str, Value]
Named = tuple[str, tuple[int, ...]]  # a tensor's name and shape while a block is put together
Block = Iterator[Named]


class Tensor(NamedTuple):
    """A tensor's name and its shape, ne0 first."""

    name: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A model without its numbers; the keys of `hyperparameters` lack the architecture's prefix."""

    architecture: str
    n_vocab: int
    hyperparameters: Mapping[str, Value]
    tensors: tuple[Tensor, ...]

    @property
    def n_parameters(self) -> int:
        return sum(prod(tensor.dims) for tensor in self.tensors)

    @property
    def n_layer(self) -> int:
        return self.uint("block_count")

    def uint(self, key: str) -> int:
        """Return a whole number, 0 where the key is missing or an array."""
        value = self.hyperparameters.get(key, 0)
        return value if isinstance(value, int) else 0


class Shape(Protocol):
    """Sizes from which a model is made; `small` keeps the structure and takes smaller sizes."""

    def model(self) -> Model: ...
    def small(self) -> Shape: ...


def tensors(*groups: Iterable[Named]) -> tuple[Tensor, ...]:
    """Return one list of all groups' tensors, in their order."""
    return tuple(Tensor(name, dims) for group in groups for name, dims in group)


def layer(index: int, block: Iterable[Named]) -> Block:
    """Yield a block's tensors under their names in layer `index`."""
    for name, dims in block:
        yield f"blk.{index}.{name}", dims


def outer(n_embd: int, n_vocab: int, *, tied: bool) -> Block:
    """Yield what is not in a layer: embedding, last norm and, unless tied, the output matrix."""
    yield "token_embd.weight", (n_embd, n_vocab)
    yield "output_norm.weight", (n_embd,)
    if not tied:
        yield "output.weight", (n_embd, n_vocab)


def experts(n_embd: int, n_ff: int, n_expert: int) -> Block:
    """Yield a router and its experts."""
    yield "ffn_gate_inp.weight", (n_embd, n_expert)
    yield "ffn_gate_exps.weight", (n_embd, n_ff, n_expert)
    yield "ffn_up_exps.weight", (n_embd, n_ff, n_expert)
    yield "ffn_down_exps.weight", (n_ff, n_embd, n_expert)


def feed_forward(n_embd: int, n_ff: int, suffix: str = "") -> Block:
    """Yield a gated feed-forward network; the suffix "_shexp" makes it a shared expert."""
    yield f"ffn_gate{suffix}.weight", (n_embd, n_ff)
    yield f"ffn_up{suffix}.weight", (n_embd, n_ff)
    yield f"ffn_down{suffix}.weight", (n_ff, n_embd)


def attention(n_embd: int, n_head: int, n_head_kv: int, head_dim: int, *, bias: bool = False) -> Block:
    """Yield the four projections of grouped attention; `bias` is that of query, key and value."""
    width, width_kv = n_head * head_dim, n_head_kv * head_dim
    for name, size in (("attn_q", width), ("attn_k", width_kv), ("attn_v", width_kv)):
        yield f"{name}.weight", (n_embd, size)
        if bias:
            yield f"{name}.bias", (size,)
    yield "attn_output.weight", (width, n_embd)


def shrunk(real: int, size: int) -> int:
    """Return a small size that is, like the real one, a multiple of 256 (a K-quant's block) or not."""
    return size if real % 256 == 0 else size + 64


def shared_keys(shape: object) -> Hyperparameters:
    """Return the hyperparameters nearly all architectures have, of those that the shape knows."""
    known = {field.name for field in fields(shape)}  # type: ignore[arg-type]
    return {key: getattr(shape, name) for name, key in _SHARED.items() if name in known}


_SHARED = {
    "n_ctx_train": "context_length",
    "n_embd": "embedding_length",
    "n_layer": "block_count",
    "n_ff": "feed_forward_length",
    "n_vocab": "vocab_size",
    "n_head": "attention.head_count",
    "n_head_kv": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_base": "rope.freq_base",
}
