"""The classic formulas for models of which only a parameter count is known, and what llama.cpp takes for such a shape.

Knows neither files nor probes: what is free on a machine is handed in. For a model with a file the header knows better.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from math import ceil

from llmrun.errors import UsageError
from llmrun.gguf.header import align
from llmrun.memory.context import ContextShape, context_shape
from llmrun.settings import RunSettings

# Bits per weight of a whole file. Source: llama.cpp 0c1e57098, tools/quantize/README.md, measured on Llama-3.1-8B; a
# smaller model has more, since its embedding, which is quantized less, is a larger part of it. Q4_0 to Q5_1 are not in
# that table: theirs is the file's size in tools/quantize/quantize.cpp (4.34, 4.78, 5.21, 5.65 GiB) over 8,030,261,248.
_QUANT_BPW = {
    "IQ1_S": "2.0042",
    "IQ1_M": "2.1460",
    "IQ2_XXS": "2.3824",
    "IQ2_XS": "2.5882",
    "IQ2_S": "2.7403",
    "IQ2_M": "2.9294",
    "IQ3_XXS": "3.2548",
    "IQ3_XS": "3.4977",
    "IQ3_S": "3.6606",
    "IQ3_M": "3.7628",
    "IQ4_XS": "4.4597",
    "IQ4_NL": "4.6818",
    "Q2_K_S": "2.9697",
    "Q2_K": "3.1593",
    "Q3_K_S": "3.6429",
    "Q3_K_M": "3.9960",
    "Q3_K_L": "4.2979",
    "Q4_0": "4.6424",
    "Q4_1": "5.1131",
    "Q4_K_S": "4.6672",
    "Q4_K_M": "4.8944",
    "Q5_0": "5.5730",
    "Q5_1": "6.0437",
    "Q5_K_S": "5.5704",
    "Q5_K_M": "5.7036",
    "Q6_K": "6.5633",
    "Q8_0": "8.5008",
    "F16": "16",
    "BF16": "16",
    "F32": "32",
}
QUANT_BPW = {name: Fraction(bpw) for name, bpw in _QUANT_BPW.items()}
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # quantize.cpp, QUANT_OPTIONS
MAX_BITS = 32  # F32; a model's file may hold 64 (ggml.h, GGML_TYPE_F64), but no weights

PAPER = "Korthikanti et al. 2022, arXiv 2205.05198"
_ENGINE = "llama.cpp 0c1e57098"


@dataclass(frozen=True, slots=True)
class Precision:
    """How the weights are stored: a label, and bits per weight."""

    name: str
    bpw: Fraction


@dataclass(frozen=True, slots=True)
class DenseShape:
    """What a dense model's memory depends on; names are llama.cpp's. head_dim: elements of one head's K or V."""

    name: str
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_embd: int
    n_ff: int
    n_vocab: int
    tied: bool = False
    qk_norm: bool = False

    @property
    def n_params(self) -> int:
        """Weights of a llama-like model: embeddings, attention, gated feed-forward and norms."""
        embeddings = self.n_vocab * self.n_embd * (1 if self.tied else 2)
        attention = 2 * self.n_embd * self.head_dim * (self.n_head + self.n_head_kv)
        norms = 2 * self.n_embd + (2 * self.head_dim if self.qk_norm else 0)
        return embeddings + self.n_layer * (attention + 3 * self.n_embd * self.n_ff + norms) + self.n_embd


# Source: each model's config.json; the parameter counts that follow from them are the published ones (tests).
SHAPES = (
    DenseShape("Qwen3 0.6B", 28, 16, 8, 128, 1024, 3072, 151936, tied=True, qk_norm=True),
    DenseShape("Llama 3.2 1B", 16, 32, 8, 64, 2048, 8192, 128256, tied=True),
    DenseShape("Qwen3 1.7B", 28, 16, 8, 128, 2048, 6144, 151936, tied=True, qk_norm=True),
    DenseShape("Llama 3.2 3B", 28, 24, 8, 128, 3072, 8192, 128256, tied=True),
    DenseShape("Qwen3 4B", 36, 32, 8, 128, 2560, 9728, 151936, tied=True, qk_norm=True),
    DenseShape("Llama 2 7B", 32, 32, 32, 128, 4096, 11008, 32000),
    DenseShape("Llama 3.1 8B", 32, 32, 8, 128, 4096, 14336, 128256),
    DenseShape("Qwen3 8B", 36, 32, 8, 128, 4096, 12288, 151936, qk_norm=True),
    DenseShape("Llama 2 13B", 40, 40, 40, 128, 5120, 13824, 32000),
    DenseShape("Qwen3 14B", 40, 40, 8, 128, 5120, 17408, 151936, qk_norm=True),
    DenseShape("Qwen3 32B", 64, 64, 8, 128, 5120, 25600, 151936, qk_norm=True),
    DenseShape("Llama 3.1 70B", 80, 64, 8, 128, 8192, 28672, 128256),
    DenseShape("Llama 3.1 405B", 126, 128, 8, 128, 16384, 53248, 128256),
)


@dataclass(frozen=True, slots=True)
class GivenShape:
    """What the user said about a model's shape; None is nothing."""

    n_layer: int | None = None
    n_head: int | None = None
    n_head_kv: int | None = None
    n_embd: int | None = None


@dataclass(frozen=True, slots=True)
class ShapeGuess:
    """A shape with its gaps filled. like: the model they were filled from; guessed: the fields of GivenShape filled."""

    shape: DenseShape
    like: DenseShape
    guessed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FormulaResult:
    """A formula's bytes, the formula as text, and where it stands."""

    name: str
    size: int
    formula: str
    source: str


@dataclass(frozen=True, slots=True)
class Inference:
    """What running a model takes."""

    weights: FormulaResult
    kv_cache: FormulaResult
    compute: FormulaResult

    @property
    def size(self) -> int:
        """The sum, in bytes."""
        return self.weights.size + self.kv_cache.size + self.compute.size


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """What is free on a machine, in bytes, and what of it stays so: for drivers and programs.

    host_reserve: on the host. devices: (name, free) of those with memory of their own. device_reserve: on each.
    """

    host_available: int
    host_reserve: int
    devices: tuple[tuple[str, int], ...] = ()
    device_reserve: int = 0


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a model runs on a machine.

    n_gpu_layers: as many as the devices take, output included, of n_layer + 1. host_bytes: what is left for the host.
    """

    on_cpu: bool
    on_gpu: bool
    mixed: bool
    n_gpu_layers: int
    host_bytes: int

    @property
    def anywhere(self) -> bool:
        """Whether there is any way to run it."""
        return self.on_cpu or self.on_gpu or self.mixed


def parse_bits(text: str) -> Precision:
    """Read bits per weight, or the name of a quantization: "16", "4.5", "q4_k_m"; raises UsageError."""
    name = text.strip().upper()
    name = _ALIASES.get(name, name)
    if name in QUANT_BPW:
        return Precision(name, QUANT_BPW[name])
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", name) and 1 <= Fraction(name) <= MAX_BITS:
        return Precision(f"{float(name):g}", Fraction(name))
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", name) and Fraction(name) > MAX_BITS:
        raise UsageError(f"no model has more than {MAX_BITS} bits per weight: {text[:40]} are too many", "--bits 16")
    near = get_close_matches(name, QUANT_BPW, n=3, cutoff=0.6)
    raise UsageError(
        f"{text[:40]!r} is neither 1 to {MAX_BITS} bits nor the name of a quantization",
        f"did you mean {' or '.join(near)}?" if near else "--bits 16, --bits 4 or --bits Q4_K_M",
    )


def guess_shape(n_params: int, given: GivenShape) -> ShapeGuess:
    """Fill the gaps of a shape from a known model of about the size; raises UsageError for heads that do not divide.

    Of the known models within a quarter of the size the one that agrees best with what is given, else the nearest.
    """
    like = _like(n_params, given)
    n_embd, n_head = given.n_embd or like.n_embd, given.n_head or like.n_head
    heads_known = n_head == like.n_head
    n_head_kv = given.n_head_kv or (like.n_head_kv if heads_known else n_head)
    _check_divides("hidden", n_embd, "heads", n_head)
    _check_divides("heads", n_head, "KV heads", n_head_kv)
    shape = DenseShape(
        name=like.name,
        n_layer=given.n_layer or like.n_layer,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=like.head_dim if heads_known and n_embd == like.n_embd else n_embd // n_head,
        n_embd=n_embd,
        # 8/3 of the width keeps a gated feed-forward as large as a plain one of 4 (Shazeer 2020, arXiv 2002.05202)
        n_ff=like.n_ff if n_embd == like.n_embd else align(-(-8 * n_embd // 3), 256),
        n_vocab=like.n_vocab,
        tied=like.tied,
        qk_norm=like.qk_norm,
    )
    return ShapeGuess(shape, like, tuple(name for name in GivenShape.__slots__ if getattr(given, name) is None))


def _like(n_params: int, given: GivenShape) -> DenseShape:
    def distance(shape: DenseShape) -> float:
        return max(n_params / shape.n_params, shape.n_params / n_params)

    def disagreements(shape: DenseShape) -> int:
        pairs = [(getattr(given, name), getattr(shape, name)) for name in GivenShape.__slots__]
        return sum(wanted not in (None, there) for wanted, there in pairs)

    near = [shape for shape in SHAPES if distance(shape) <= 1.25]
    return min(near or SHAPES, key=lambda shape: (disagreements(shape) if near else 0, distance(shape)))


def _check_divides(whole: str, n_whole: int, parts: str, n_parts: int) -> None:
    if n_whole % n_parts:
        raise UsageError(
            f"{whole} {n_whole:,} cannot be divided among {n_parts:,} {parts}",
            "--hidden 4096 --heads 32 --kv-heads 8 is the shape of Llama 3.1 8B",
        )


def estimate_weights(n_params: int, bpw: Fraction) -> FormulaResult:
    """Return parameters times their bits: 14 GB for 7 billion at 16 bits."""
    return FormulaResult(
        "weights", ceil(n_params * bpw / 8), "bits/8 · parameters", "the definition of bits per weight"
    )


def estimate_activations(n_params: int, bpw: Fraction, shape: DenseShape, n_tokens: int, n_batch: int) -> FormulaResult:
    """Return the popular formula as it goes around: 66.6 GiB for 7 billion at 32 bits and 2,048 tokens.

    The paper's bytes of one layer at 16 bits, s·b·h·(34 + 5·a·s/h), halved to count values; the number of layers
    stands at the first term only, and the bits of the weights are given to the activations too.
    """
    scores, rest = _activations_of_a_layer(shape, n_tokens, n_batch)
    size = ceil((n_params + shape.n_layer * scores + rest) * bpw / 8)
    formula = "bits/8 · (parameters + l·(5/2)·a·b·s² + 17·b·h·s)"
    return FormulaResult("activations", size, formula, f"popular reading of {PAPER}")


def estimate_activations_per_layer(
    n_params: int, bpw: Fraction, shape: DenseShape, n_tokens: int, n_batch: int
) -> FormulaResult:
    """Return the same with the paper's sum over all layers: 83.1 GiB for 7 billion at 32 bits and 2,048 tokens.

    Of the paper's 34 and 5 bytes, 2 and 1 are dropout masks, one byte at any precision; they are scaled along here.
    """
    scores, rest = _activations_of_a_layer(shape, n_tokens, n_batch)
    size = ceil((n_params + shape.n_layer * (scores + rest)) * bpw / 8)
    formula = "bits/8 · (parameters + l·((5/2)·a·b·s² + 17·b·h·s))"
    return FormulaResult("activations_per_layer", size, formula, PAPER)


def _activations_of_a_layer(shape: DenseShape, n_tokens: int, n_batch: int) -> tuple[Fraction, int]:
    """The values of a layer that training keeps: attention scores, and the rest."""
    return Fraction(5 * shape.n_head * n_batch * n_tokens**2, 2), 17 * n_batch * shape.n_embd * n_tokens


def estimate_inference(n_params: int, bpw: Fraction, shape: DenseShape, n_tokens: int, n_seq: int) -> Inference:
    """Return what llama.cpp takes to run n_seq sequences of n_tokens each, with our settings and flash attention.

    The KV cache is in 16 bits whatever the weights are.
    """
    context = context_shape(RunSettings(n_ctx=n_tokens * n_seq, n_seq_max=n_seq, n_outputs_max=n_seq), n_tokens)
    kv_cache = 2 * shape.n_layer * context.n_ctx * shape.n_head_kv * shape.head_dim * 2
    kv_text = "2 · layers · cells · KV heads · head size · 2 bytes"
    compute_text = "about max(4·u·(3·ff + 4·h) + 2·u·cells, 4·b·vocabulary + 4·h·(u + b)), u = 128"
    return Inference(
        estimate_weights(n_params, bpw),
        FormulaResult("kv_cache", kv_cache, kv_text, f"{_ENGINE}, src/llama-kv-cache.cpp; cells in steps of 256"),
        FormulaResult("compute", _compute_bytes(shape, context), compute_text, f"measured with {_ENGINE}"),
    )


def _compute_bytes(shape: DenseShape, context: ContextShape) -> int:
    """The larger of a step through a layer, with the mask of attention, and of the logits at the end; and the inputs.

    Against dry runs of llama.cpp 0c1e57098 on all of SHAPES (CPU, 100 to 131,072 tokens, n_ubatch 128, flash attention;
    91 up to 4 sequences, 65 from 16 to 256): up to 4 equal to the byte, but for Qwen3 0.6B, where it is 0.5 MiB more;
    with more sequences at most 5 MiB less, where the KV cache is gigabytes.
    """
    step = align(context.n_ubatch, context.n_seq_max)
    widest = max(shape.n_embd, shape.n_head * shape.head_dim)
    layer = 4 * step * (3 * shape.n_ff + 3 * shape.n_embd + widest) + 2 * step * context.n_ctx_seq
    n_outputs = min(context.n_outputs, context.n_ubatch)
    logits = 4 * n_outputs * shape.n_vocab + 4 * shape.n_embd * (step + n_outputs)
    inputs = 2 * align(4 * step, 32) + 2 * align(8 * step, 32) + align(4 * n_outputs, 32)
    return max(layer, logits) + inputs


def estimate_fit(inference: Inference, n_layer: int, free: FreeMemory) -> Fit:
    """Return where a model runs.

    Layers are taken as equally large, the embeddings as one of them; every device needs a compute buffer of its own,
    and the host too.
    """
    compute = inference.compute.size
    in_layers = inference.size - compute
    layer = -(-in_layers // (n_layer + 1))
    rooms = [max(0, size - free.device_reserve - compute) for _, size in free.devices]
    n_gpu_layers = min(n_layer + 1, sum(room // layer for room in rooms))
    rest = max(0, in_layers - n_gpu_layers * layer) + compute
    budget = free.host_available - free.host_reserve
    return Fit(
        on_cpu=inference.size <= budget,
        on_gpu=n_gpu_layers == n_layer + 1,
        mixed=n_gpu_layers > 0 and rest <= budget,
        n_gpu_layers=n_gpu_layers,
        host_bytes=rest,
    )
