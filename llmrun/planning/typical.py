"""A model of which only its parameters are known: the work of a token, as a model of about that size has it. Pure.

For what is told before anything of a model is read; its header knows better. Against the arithmetic on the headers of
twelve published shapes (0.6B to 106B, five with experts or windows; Q4_K_M, 8,192 tokens) memory was between 9 % too
small and 23 % too large.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from llmrun.memory.rules_of_thumb import (
    QUANT_BPW,
    SHAPES,
    DenseShape,
    Fit,
    FreeMemory,
    Inference,
    estimate_fit,
    estimate_inference,
)
from llmrun.planning.work import Heads, LayerWork, ModelWork, Product

USUAL_QUANT = "Q4_K_M"  # what most repositories have, and the smallest that loses little
_MAIN, _OUTPUT = "Q4_K", "Q6_K"  # the types of its layers, and of its output (llama.cpp, src/llama-quant.cpp)
_RESERVE = 1 << 30  # bytes left free of RAM and of each device: sizes are rough here


@dataclass(frozen=True, slots=True)
class Typical:
    """A model in the usual quantization. n_params: weights; n_active: those a token goes through."""

    n_params: int
    n_active: int

    @property
    def shape(self) -> DenseShape:
        """The shape of a known model of about the size, with fewer heads for the cache than for queries, as of late.

        By what a token goes through: of a model with experts the layers are about as those of a model of that size
        (Qwen3 30B has 3B active and 96 KiB of KV cache a token; Llama 3.2 3B has 112 KiB, Qwen3 32B 256).
        """

        def distance(shape: DenseShape) -> float:
            return max(self.n_active / shape.n_params, shape.n_params / self.n_active)

        return min((shape for shape in SHAPES if shape.n_head_kv < shape.n_head), key=distance)

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return ceil(self.n_params * _bpw() / 8)

    def work(self) -> ModelWork:
        """Return what a token goes through: the layers of that shape, as large as its active weights make them."""
        shape, bpw = self.shape, float(_bpw())
        part = self.n_active / shape.n_params

        def product(rows: int, columns: int, kind: str = _MAIN) -> Product:
            return Product(kind, rows, columns, ceil(rows * columns * part * bpw / 8))

        n_embd, width, n_kv = shape.n_embd, shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
        attention = (
            product(width, n_embd),
            product(n_kv, n_embd),
            product(n_kv, n_embd),
            product(n_embd, width),
        )
        feed_forward = (product(shape.n_ff, n_embd), product(shape.n_ff, n_embd), product(n_embd, shape.n_ff))
        heads = Heads(shape.n_head, shape.n_head_kv, shape.head_dim, shape.head_dim, None)
        layer = LayerWork(attention, feed_forward, (), heads)
        output = (product(shape.n_vocab, n_embd, _OUTPUT),)
        return ModelWork(shape.name, shape.n_vocab, (layer,) * shape.n_layer, output)

    def memory(self, n_ctx: int) -> Inference:
        """Return what it takes with a context of so many tokens."""
        return estimate_inference(self.n_params, _bpw(), self.shape, n_ctx, 1)

    def fit(self, n_ctx: int, available: int, devices: tuple[tuple[str, int], ...]) -> Fit:
        """Return where it runs. available: bytes of RAM; devices: names and free bytes, of those with their own."""
        free = FreeMemory(available, _RESERVE, devices, _RESERVE)
        return estimate_fit(self.memory(n_ctx), self.shape.n_layer, free)


def _bpw() -> Fraction:
    return QUANT_BPW[USUAL_QUANT]
