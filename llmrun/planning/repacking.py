"""Whether weights in the CPU's own layout are worth having: what was measured here says, else their types. Pure.

Memory is another question, and comes first: repacked weights are copies that nobody can drop.
"""

from __future__ import annotations

from collections.abc import Collection

from llmrun.memory.placement import place_layers
from llmrun.planning.rates import Rates
from llmrun.planning.speed import predict
from llmrun.planning.work import ModelWork
from llmrun.settings import RunSettings

# A question and its answer, tokens: what the two layouts are compared by.
_PROMPT, _ANSWER = 512, 256
# Types whose repacked kernels are the faster ones for reading and writing alike. Measured 2026-11, 1.2B, 2 threads,
# AVX-512: Q4_0 reads 259 against 118 tok/s and writes 44 against 31; Q4_K reads 230 against 386 and writes 36 against
# 32, since llama.cpp's plain K-quant kernels work on tiles (ggml-cpu/tiled) and the repacked ones do not.
_FASTER_REPACKED = frozenset({"Q4_0", "IQ4_NL", "MXFP4"})
# The same for steps of 2 to 8 tokens, each of another conversation, where the processor has no AVX-512. Measured
# 2026-11, 0.6B Q4_K_M, 2 threads, AVX2: 2, 4 and 8 tokens took 58, 90 and 211 ms as they are, and 47, 74 and 165 ms
# repacked (one 30 and 29); reading was 17 % slower. With AVX-512 reading loses 40 %, and steps were not measured.
_FASTER_TOGETHER = _FASTER_REPACKED | {"Q4_K"}
_ONLY_AVX512 = "Q2_K"  # see hardware.cpu


def repacking_pays(work: ModelWork, settings: RunSettings, plain: Rates | None, repacked: Rates | None) -> bool:
    """Tell whether an answer comes sooner from repacked weights.

    plain, repacked: the host's costs as measured either way, None where they were not: then the types tell.
    """
    seconds = [_answer_seconds(work, settings, rates) for rates in (plain, repacked) if rates is not None]
    if len(seconds) == 2 and seconds[0] is not None and seconds[1] is not None:
        return seconds[1] < seconds[0]
    return _mostly(work, _FASTER_REPACKED)


def repacking_pays_together(work: ModelWork, repackable: Collection[str]) -> bool:
    """Tell whether conversations that are written at once go faster with repacked weights.

    repackable: the types that this processor repacks.
    """
    return _ONLY_AVX512 not in repackable and _mostly(work, _FASTER_TOGETHER & set(repackable))


def _mostly(work: ModelWork, types: Collection[str]) -> bool:
    sizes = [(product.type in types, product.size) for product in work.products()]
    return sum(size for inside, size in sizes if inside) * 2 > sum(size for _, size in sizes)


def _answer_seconds(work: ModelWork, settings: RunSettings, rates: Rates) -> float | None:
    placement = place_layers(len(work.layers), 0, ())
    speed = predict(work, settings, placement, rates, n_past=_PROMPT + _ANSWER // 2, n_prompt=_PROMPT)
    return None if speed is None else _PROMPT / speed.prefill + _ANSWER / speed.decode
