"""Whether weights in the CPU's own layout are worth having: what was measured here says, else their types. Pure.

Memory is another question, and comes first: repacked weights are copies that nobody can drop.
"""

from __future__ import annotations

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


def repacking_pays(work: ModelWork, settings: RunSettings, plain: Rates | None, repacked: Rates | None) -> bool:
    """Tell whether an answer comes sooner from repacked weights.

    plain, repacked: the host's costs as measured either way, None where they were not: then the types tell.
    """
    seconds = [_answer_seconds(work, settings, rates) for rates in (plain, repacked) if rates is not None]
    if len(seconds) == 2 and seconds[0] is not None and seconds[1] is not None:
        return seconds[1] < seconds[0]
    sizes = [(product.type in _FASTER_REPACKED, product.size) for product in work.products()]
    return sum(size for faster, size in sizes if faster) * 2 > sum(size for _, size in sizes)


def _answer_seconds(work: ModelWork, settings: RunSettings, rates: Rates) -> float | None:
    placement = place_layers(len(work.layers), 0, ())
    speed = predict(work, settings, placement, rates, n_past=_PROMPT + _ANSWER // 2, n_prompt=_PROMPT)
    return None if speed is None else _PROMPT / speed.prefill + _ANSWER / speed.decode
