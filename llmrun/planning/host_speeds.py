"""What computing costs on a host that was not measured: what one is likely to be, with a wide band around it. Pure.

Measured 2026-11 with one thread of a virtual EPYC (AVX-512, VNNI, 32 MiB of cache), llama.cpp 0c1e57098, batches of
128, by llmrun.worker.measure: the second of two threads took nothing from the first. A laptop's core is about as fast;
with AVX2 alone batches take up to twice as long. Memory is what laptops have less of: two channels of DDR4.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from statistics import median

from llmrun.planning.rates import ANY_TYPE, AttentionCost, BaseCosts, Cost, MatrixCost, Rates

# By GGML type, with one thread: 1e9 bytes a second that one token alone is made with, and 1e9 multiply-adds a second
# of a batch. The IQ types under four bits are looked up in tables, which costs more than reading them.
_TYPES = {
    "F32": (17.5, 35),
    "F16": (14.0, 46),
    "BF16": (14.0, 30),
    "Q8_0": (12.9, 36),
    "Q6_K": (11.4, 46),
    "Q5_K": (9.5, 53),
    "Q4_K": (10.5, 52),
    "Q3_K": (8.4, 47),
    "Q2_K": (8.6, 55),
    "Q4_0": (6.8, 21),
    "Q4_1": (9.3, 17),
    "Q5_0": (9.2, 24),
    "Q5_1": (9.0, 16),
    "IQ4_NL": (8.1, 26),
    "IQ4_XS": (7.6, 43),
    "IQ3_S": (2.2, 37),
    "IQ3_XXS": (3.4, 50),
    "IQ2_S": (2.5, 35),
    "IQ2_XS": (3.3, 47),
    "IQ2_XXS": (4.0, 54),
    "IQ1_S": (1.7, 37),
    "IQ1_M": (1.8, 33),
    "TQ1_0": (5.5, 32),
    "TQ2_0": (8.3, 48),
    "MXFP4": (8.6, 18),
    "NVFP4": (7.2, 14),
    ANY_TYPE: (3.0, 20),  # a type of tomorrow
}
# The same in the layout the processor prefers
_REPACKED = {
    "Q4_0": (10.3, 40),
    "IQ4_NL": (10.0, 41),
    "MXFP4": (10.3, 40),
    "Q4_K": (10.0, 46),
    "Q2_K": (9.2, 50),
}
# And in AMX's buffers, with one thread of a Xeon that has it
_AMX = {
    "F16": (16.9, 64),
    "Q8_0": (15.1, 88),
    "Q6_K": (8.8, 59),
    "Q5_K": (7.9, 107),
    "Q4_K": (11.6, 145),
    "Q4_0": (17.9, 83),
    "Q4_1": (16.2, 85),
    "IQ4_XS": (9.2, 128),
}
_EXPERTS_SLOWER = 1.9  # how much longer a batch's multiply-adds take in experts: Q4_K 1.9, Q8_0 1.5, IQ4_XS 2.2
# Two channels of DDR4-3200 have 51.2e9 bytes a second by their data sheet; llama.cpp reaches about 65 % of such figures
# (Apple's and NVIDIA's in llmrun.planning.device_speeds, 44 to 80 %), whatever the threads.
_MEMORY = 33e9
_UNPACK, _ROW = 1.5e-10, 5e-9  # seconds for a weight of a batch and a row of one token; with one thread, most types
_CALL, _LAYER, _LOGIT = 2e-5, 1e-5, 2e-9
_ATTENTION, _CACHE_READ, _BATCH_ATTENTION = 2e-10, 8e-11, 4.5e-11  # as in AttentionCost
# A KV cache of another type than these is unpacked: with q8_0 one token took 1.2 to 2.3 times as long, a batch 4.7
_PLAIN_CACHES = ("f16", "bf16", "f32")
_UNPACKED_CACHE, _UNPACKED_BATCH = 1.8, 4.7
_BAND = 1.0  # as Cost.spread: half as fast or half as fast again


def default_host_rates(
    n_threads: int, n_threads_batch: int | None = None, *, repack: bool = False, in_amx: Collection[str] = ()
) -> Rates:
    """Return the costs to expect of a host of which nothing is known but how many threads it is to use.

    n_threads_batch: None is as many. repack: weights in the processor's own layout. in_amx: types that AMX's buffers
    take then.
    """
    known = {**_TYPES, **_REPACKED} if repack else _TYPES
    batch = n_threads_batch or n_threads
    matrices = _matrices(known, n_threads, batch)
    experts = {name: replace(cost, multiply=_scaled(cost.multiply, _EXPERTS_SLOWER)) for name, cost in matrices.items()}
    if repack:
        matrices |= _matrices({name: _AMX[name] for name in _AMX.keys() & in_amx}, n_threads, batch)
    plain = AttentionCost(
        _cost(_ATTENTION / n_threads), _cost(_CACHE_READ / n_threads), _cost(_BATCH_ATTENTION / batch)
    )
    unpacked = _attention_scaled(plain, _UNPACKED_CACHE, _UNPACKED_BATCH)
    return Rates(
        # threads wait for each other once for every operation: with two a layer's share grew by a half
        BaseCosts(_cost(_CALL), _cost(_LAYER * (1 if n_threads == 1 else 1.5)), _cost(_LOGIT)),
        matrices,
        experts,
        {**dict.fromkeys(_PLAIN_CACHES, plain), ANY_TYPE: unpacked},
    )


def _matrices(known: Mapping[str, tuple[float, float]], n_threads: int, n_threads_batch: int) -> dict[str, MatrixCost]:
    return {name: _matrix(read * 1e9, units * 1e9, n_threads, n_threads_batch) for name, (read, units) in known.items()}


def _matrix(bandwidth: float, multiply_adds: float, n_threads: int, n_threads_batch: int) -> MatrixCost:
    return MatrixCost(
        read=_cost(max(1 / (bandwidth * n_threads), 1 / _MEMORY)),
        row=_cost(_ROW / n_threads),
        unpack=_cost(_UNPACK / n_threads_batch),
        multiply=_cost(1 / (multiply_adds * n_threads_batch)),
        convey=_cost(1e-9 / n_threads_batch),
    )


def _cost(seconds: float) -> Cost:
    return Cost(seconds, _BAND)


def completed(known: Rates, usual: Rates) -> Rates:
    """Return what is known, and for the rest the usual costs, as much higher or lower as those of what is known are."""
    pairs = [(cost, other) for name, cost in known.matrices.items() if (other := usual.matrix(name)) is not None]
    alone = _ratio((cost.read, other.read) for cost, other in pairs)
    batch = _ratio((cost.multiply, other.multiply) for cost, other in pairs)
    return Rates(
        usual.base,
        {name: _matrix_scaled(cost, alone, batch) for name, cost in usual.matrices.items()},
        {name: _matrix_scaled(cost, alone, batch) for name, cost in usual.experts.items()},
        {name: _attention_scaled(cost, alone, batch) for name, cost in usual.attention.items()},
    ).merged(known)


def _ratio(pairs: Iterable[tuple[Cost, Cost]]) -> float:
    ratios = [cost.seconds / usual.seconds for cost, usual in pairs if cost.seconds > 0 and usual.seconds > 0]
    return median(ratios) if ratios else 1.0


def _scaled(cost: Cost, factor: float) -> Cost:
    return replace(cost, seconds=cost.seconds * factor)


def _matrix_scaled(cost: MatrixCost, alone: float, batch: float) -> MatrixCost:
    factors = {"read": alone, "row": alone}
    return MatrixCost(*(_scaled(getattr(cost, one.name), factors.get(one.name, batch)) for one in fields(cost)))


def _attention_scaled(cost: AttentionCost, alone: float, batch: float) -> AttentionCost:
    return AttentionCost(_scaled(cost.decode, alone), _scaled(cost.read, alone), _scaled(cost.prefill, batch))
