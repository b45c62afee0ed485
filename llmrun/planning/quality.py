"""How much a quantization loses, as a number and as a word. Pure.

The number is the mean Kullback-Leibler divergence of the next token's distribution from the unquantized model's, in
nats. Source: llama.cpp's table for Llama-3-8B, quantized with an importance matrix (tools/perplexity/README.md); labels
that are not in it (_XL, _L, MXFP4, NVFP4) stand between their neighbours. The same label differs up to five times
between recipes and models: it is an order, not a promise.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from llmrun.quant import find_label

LOSS: dict[str, float] = {
    "F32": 0.0,
    "BF16": 0.0006,
    "F16": 0.0006,
    "Q8_K_XL": 0.001,
    "Q8_0": 0.0014,
    "Q6_K_XL": 0.0045,
    "Q6_K_L": 0.005,
    "Q6_K": 0.0055,
    "Q5_K_XL": 0.008,
    "Q5_K_L": 0.010,
    "Q5_K_M": 0.0108,
    "Q5_K": 0.0108,  # llama-quantize takes Q5_K, Q4_K and Q3_K for the _M of them
    "Q5_K_S": 0.0166,
    "Q5_1": 0.018,
    "Q5_0": 0.0222,
    "Q4_K_XL": 0.024,
    "Q4_K_L": 0.026,
    "Q4_K_M": 0.0282,
    "Q4_K": 0.0282,
    "Q4_K_S": 0.032,
    "IQ4_NL_XL": 0.034,
    "IQ4_NL": 0.0357,
    "IQ4_XS": 0.0363,
    "MXFP4_MOE": 0.045,
    "MXFP4": 0.045,
    "NVFP4": 0.06,
    "Q3_K_XL": 0.065,
    "Q4_1": 0.0717,
    "Q4_0": 0.0719,
    "Q3_K_L": 0.0731,
    "Q3_K_M": 0.0844,
    "Q3_K": 0.0844,
    "IQ3_M": 0.1025,
    "IQ3_S": 0.1113,
    "IQ3_XS": 0.1387,
    "IQ3_XXS": 0.1836,
    "Q3_K_S": 0.1998,
    "Q2_K_XL": 0.29,
    "Q2_K_L": 0.31,
    "IQ2_M": 0.326,
    "Q2_K": 0.332,
    "Q2_K_S": 0.403,
    "IQ2_S": 0.439,
    "IQ2_XS": 0.546,
    "IQ2_XXS": 0.812,
    "IQ1_M": 1.39,
    "IQ1_S": 2.25,
}
# Published in these four bits and trained for them: they are the model itself, nothing was lost.
_NATIVE_MXFP4 = frozenset({"gpt-oss"})
_NATIVE_LOSS = 0.0006
# Bits per weight and loss, for files whose label nobody knows: quantizations of the same table with their sizes
# (tools/quantize/README.md), between which the logarithm of the loss is close to a straight line.
_BY_BITS = (
    (2.00, 2.25),
    (2.38, 0.812),
    (3.16, 0.332),
    (3.64, 0.1998),
    (4.00, 0.0844),
    (4.89, 0.0282),
    (5.70, 0.0108),
    (6.56, 0.0055),
    (8.50, 0.0014),
    (16.0, 0.0006),
)


@dataclass(frozen=True, slots=True)
class LossClass:
    """What people call a loss: up to `most` nats, the bound included."""

    name: str
    most: float


LOSSLESS = LossClass("lossless", 0.0006)
NEAR_LOSSLESS = LossClass("near-lossless", 0.006)
VERY_GOOD = LossClass("very good", 0.025)
GOOD = LossClass("good", 0.045)
NOTICEABLE = LossClass("noticeable loss", 0.12)
HEAVY = LossClass("heavy loss", 0.45)
LAST_RESORT = LossClass("last resort", math.inf)
CLASSES = (LOSSLESS, NEAR_LOSSLESS, VERY_GOOD, GOOD, NOTICEABLE, HEAVY, LAST_RESORT)


def loss_class(loss: float) -> LossClass:
    """Return the class of a loss."""
    return next(known for known in CLASSES if loss <= known.most)


def loss_of(quant: str | None, bpw: float, architecture: str = "") -> float:
    """Return what a quantization loses, by the label in what it is called, else by its bits per weight."""
    found = find_label(quant or "")
    label = found.label.removeprefix("UD-") if found else ""
    if label.startswith("MXFP4") and architecture in _NATIVE_MXFP4:
        return _NATIVE_LOSS
    return LOSS[label] if label in LOSS else loss_by_bits(bpw)


def loss_by_bits(bpw: float) -> float:
    """Return what so many bits per weight usually lose."""
    bits = [point[0] for point in _BY_BITS]
    place = bisect_left(bits, bpw)
    if place == 0:
        return _BY_BITS[0][1]
    if bpw >= bits[-1]:
        return _BY_BITS[-1][1]
    (low, more), (high, less) = _BY_BITS[place - 1], _BY_BITS[place]
    part = (bpw - low) / (high - low)
    return math.exp(math.log(more) + part * (math.log(less) - math.log(more)))
