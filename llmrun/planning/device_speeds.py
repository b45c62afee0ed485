"""How fast known devices are, by name, for those that are not here or were not measured: a table, and a band around it.

Where the name is unknown its backend tells a little; hosts have llmrun.planning.host_speeds.

Pure. Decode: tokens a second of an 8B model in Q4_K_M, from which follows how many bytes a second its weights are read
with; prefill: tokens a second of the same model's prompt of 512, from which follow multiplications a second.

Source of the measured rows: the tables of github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference (llama.cpp of May
2024, "tg 512", "pp 512"); of the H200 `scripts/accuracy card` with Qwen3's 8B. The others are the vendor's memory
bandwidth times what the measured ones reach of theirs: NVIDIA's 61 % (3090), 64 % (4090), 74 % (4080), 80 % (3070);
Apple's 44 % (M1 Max), 48 % (M2 Ultra), 60 % (M3 Max).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from llmrun.planning.rates import ANY_TYPE, AttentionCost, BaseCosts, Cost, MatrixCost, Rates

# Llama 3 8B in Q4_K_M: bytes read for a token (4.58 GiB less the embedding, 0.28), and its weights without that
_BYTES_8B = 4.30 * (1 << 30)
_WEIGHTS_8B = 7.5e9
_LAYERS_8B = 32
# Seconds that a layer's kernels take to begin, whatever their size: on an H200 models of 5 to 64 layers took 45e-6 each
# beside their weights (tests/golden/measured), which is most of a small model's time. Others are taken to be alike.
_LAYER = 45e-6
_LAYER_BAND = 0.5
# Half widths of the bands: other quantizations, newer kernels, other drivers
_MEASURED, _DERIVED = 0.3, 0.45
_FREE = Cost(0.0)


@dataclass(frozen=True, slots=True)
class _Known:
    """An 8B model's tokens a second, and how far they may be off as a part.

    plain: how long a byte of F16 or BF16 takes, as a part of a quantized one's: unpacking them can take longer.
    """

    decode: float
    prefill: float
    band: float
    plain: float = 1.0


def _measured(decode: float, prefill: float) -> _Known:
    return _Known(decode, prefill, _MEASURED)


def _derived(bandwidth: float, reached: float, prefill_per_bandwidth: float) -> _Known:
    """From GB/s of the data sheet: the part of it that is reached, and what devices of its kind read for each GB/s."""
    return _Known(bandwidth * 1e9 * reached / _BYTES_8B, bandwidth * prefill_per_bandwidth, _DERIVED)


def _ampere(bandwidth: float) -> _Known:
    return _derived(bandwidth, 0.65, 4.5)


def _ada(bandwidth: float) -> _Known:
    return _derived(bandwidth, 0.65, 7.0)


def _apple(bandwidth: float) -> _Known:
    return _derived(bandwidth, 0.48, 1.2)


def _radeon(bandwidth: float) -> _Known:
    return _derived(bandwidth, 0.50, 3.0)


_DEVICES: dict[str, _Known] = {
    "rtx 3070": _measured(72.79, 2402.51),
    "rtx 3080": _measured(109.57, 3728.86),
    "rtx 3080 ti": _measured(110.60, 3690.30),
    "rtx 4070 ti": _measured(83.50, 3936.29),
    "rtx 4080": _measured(108.15, 5389.74),
    "rtx 3090": _measured(115.42, 4030.40),
    "rtx 4090": _measured(130.58, 7138.99),
    "m1 max": _measured(35.73, 408.23),
    "m2 ultra": _measured(78.81, 994.04),
    "m3 max": _measured(48.97, 693.32),
    # memory bandwidth of the data sheets, GB/s
    "rtx 3050": _ampere(224),
    "rtx 3060": _ampere(360),
    "rtx 3060 ti": _ampere(448),
    "rtx a4000": _ampere(448),
    "rtx a6000": _ampere(768),
    "a10": _ampere(600),
    "a100": _ampere(1555),
    "tesla t4": _ampere(320),
    "rtx 2060": _ampere(336),
    "rtx 2070": _ampere(448),
    "rtx 2080 ti": _ampere(616),
    "rtx 4060": _ada(272),
    "rtx 4060 ti": _ada(288),
    "rtx 4070": _ada(504),
    "rtx 4070 super": _ada(504),
    "rtx 4080 super": _ada(736),
    "rtx 6000 ada": _ada(960),
    "l4": _ada(300),
    "l40s": _ada(864),
    "rtx 5060 ti": _ada(448),
    "rtx 5070": _ada(672),
    "rtx 5070 ti": _ada(896),
    "rtx 5080": _ada(960),
    "rtx 5090": _ada(1792),
    "h100": _ada(3350),
    "h200": replace(_measured(234.2, 9582), plain=0.44),
    "m1": _apple(68),
    "m1 pro": _apple(200),
    "m1 ultra": _apple(800),
    "m2": _apple(100),
    "m2 pro": _apple(200),
    "m2 max": _apple(400),
    "m3": _apple(100),
    "m3 pro": _apple(150),
    "m3 ultra": _apple(819),
    "m4": _apple(120),
    "m4 pro": _apple(273),
    "m4 max": _apple(546),
    "rx 6700 xt": _radeon(384),
    "rx 6800 xt": _radeon(512),
    "rx 6900 xt": _radeon(512),
    "rx 7600": _radeon(288),
    "rx 7800 xt": _radeon(624),
    "rx 7900 xt": _radeon(800),
    "rx 7900 xtx": _radeon(960),
}

# Devices of a backend whose name says nothing, as slow as such devices come: memory bandwidth by data sheets, GB/s.
# CUDA: a laptop's RTX 3050 or 4050, 192; ROCm: an RX 6600, 224; Metal: an M1. The others may be integrated, and then
# share two channels of DDR4; another machine's may be anything.
_BACKENDS = {"CUDA": _ampere(192), "ROCm": _radeon(224), "MTL": _apple(68)}
_SHARED_MEMORY = _apple(45)
_UNKNOWN = 0.6  # half width of the band around them


def default_device_rates(backend: str) -> Rates:
    """Return the costs to expect of a device of which nothing is known but its backend, as ggml calls it."""
    return _rates(replace(_BACKENDS.get(backend, _SHARED_MEMORY), band=_UNKNOWN))


def device_rates(name: str) -> Rates | None:
    """Return the costs on a device of this name, as its driver calls it; None for one that is not in the table.

    A laptop's is not: it has a desktop's name, and a half of its memory's speed or less.
    """
    words = " ".join(re.findall(r"[a-z0-9]+", name.lower()))
    if re.search(r"\b(laptop|mobile|max q)\b", words):
        return None
    fitting = [known for known in _DEVICES if re.search(rf"\b{known}\b", words)]
    return _rates(_DEVICES[max(fitting, key=len)]) if fitting else None


def _rates(known: _Known) -> Rates:
    """A layer's beginning apart, all is in the weights: what such a device spends besides is within the band."""
    whole = 1 / known.decode
    read = Cost(max(whole / 2, whole - _LAYERS_8B * _LAYER) / _BYTES_8B, 2 * known.band)
    multiply = Cost(1 / (known.prefill * _WEIGHTS_8B), 2 * known.band)
    plain = replace(read, seconds=known.plain * read.seconds)
    reads = {ANY_TYPE: read, "F16": plain, "BF16": plain}
    matrix = {name: MatrixCost(cost, _FREE, _FREE, multiply, _FREE) for name, cost in reads.items()}
    attention = {ANY_TYPE: AttentionCost(_FREE, read, _FREE)}
    return Rates(BaseCosts(_FREE, Cost(_LAYER, 2 * _LAYER_BAND), _FREE), matrix, matrix, attention)
