"""Whether weights in the CPU's own layout are worth having: what was measured here says, else their types. Pure.

Memory is another question, and comes first: repacked weights are copies that nobody can drop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from llmrun.hardware.layout import Layouts, in_amx
from llmrun.memory.placement import place_layers
from llmrun.planning.rates import Rates
from llmrun.planning.speed import predict
from llmrun.planning.work import ModelWork, Product
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
# And for both in AMX's buffers. Measured 2026-11, 2 threads of a Xeon, in 1e9 multiply-adds and bytes a second: Q4_K
# reads 311 against 285 and writes 21 against 9, Q8_0 198 against 105 and 34 against 19, Q4_0 184 against 93 and 31
# against 8; Q5_K and IQ4_XS read 0.75 times as fast and write twice as fast; Q6_K reads 131 against 237, and writes as
# fast.
_FASTER_IN_AMX = frozenset({"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "IQ4_XS"})
_ONLY_AVX512 = "Q2_K"  # see hardware.cpu


def repacking_pays(
    work: ModelWork, settings: RunSettings, plain: Rates | None, repacked: Rates | None, layouts: Layouts
) -> bool:
    """Tell whether an answer comes sooner from repacked weights.

    plain, repacked: the host's costs as measured either way, None where they were not: then the types tell, by the
    layouts that this processor has for them.
    """
    seconds = [_answer_seconds(work, settings, rates) for rates in (plain, repacked) if rates is not None]
    if len(seconds) == 2 and seconds[0] is not None and seconds[1] is not None:
        return seconds[1] < seconds[0]
    return _mostly(work, lambda product: _is_faster(product, layouts))


def repacking_pays_together(work: ModelWork, repackable: Collection[str]) -> bool:
    """Tell whether conversations that are written at once go faster with repacked weights.

    repackable: the types that this processor repacks.
    """
    faster = _FASTER_TOGETHER & set(repackable)
    return _ONLY_AVX512 not in repackable and _mostly(work, lambda product: product.type in faster)


def _is_faster(product: Product, layouts: Layouts) -> bool:
    kept_in_amx = product.n_expert == 1 and product.type in in_amx(layouts)
    return product.type in (_FASTER_IN_AMX if kept_in_amx else _FASTER_REPACKED)


def _mostly(work: ModelWork, faster: Callable[[Product], bool]) -> bool:
    sizes = [(faster(product), product.size) for product in work.products()]
    return sum(size for inside, size in sizes if inside) * 2 > sum(size for _, size in sizes)


def _answer_seconds(work: ModelWork, settings: RunSettings, rates: Rates) -> float | None:
    placement = place_layers(len(work.layers), 0, ())
    speed = predict(work, settings, placement, rates, n_past=_PROMPT + _ANSWER // 2, n_prompt=_PROMPT)
    return None if speed is None else _PROMPT / speed.prefill + _ANSWER / speed.decode
