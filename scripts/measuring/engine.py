"""The arithmetic against the installed engine, on ghosts of published models: `scripts/accuracy engine`."""

from __future__ import annotations

import argparse
import itertools
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from llmrun.engine.client import Engine
from llmrun.engine.layouts import read_layouts
from llmrun.errors import LLMRunError, UnknownArchitectureError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.hardware.device import Device
from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.memory.estimate import Estimator, Machine
from llmrun.memory.footprint import Band, Estimate
from llmrun.memory.weights import may_repack
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost

CONTEXTS = (512, 4096, 8192, 32768, 131072)
KV_TYPES = ("f16", "q8_0", "q4_0")
SEQUENCES = ((1, False), (4, False), (4, True))  # how many, and whether they share their cells
MIXES = ("Q4_K_M", "F16", "Q8_0")
_MIB = 1 << 20


@dataclass(slots=True)
class Score:
    """How one model's cases went; `off` describes the first that were not as claimed."""

    model: str
    architecture: str
    n_cases: int = 0
    n_refused: int = 0
    n_scaled: int = 0
    exact_weights: int = 0
    exact_cache: int = 0
    n_pools: int = 0
    exact_compute: int = 0
    within_band: int = 0
    worst_error: float = 0.0
    off: list[str] = field(default_factory=list)


def settings_of(n_layer: int, device: str | None, has_experts: bool) -> Iterator[RunSettings]:
    """Yield the whole cross product: every context, KV type, attention, number of sequences and split."""
    splits = range(n_layer + 2) if device is not None else (0,)
    experts = (0, n_layer) if has_experts and device is not None else (0,)
    product = itertools.product(CONTEXTS, KV_TYPES, (True, False, None), SEQUENCES, splits, experts, (128, 512))
    for n_ctx, kv_type, flash_attn, (n_seq, unified), n_gpu_layers, cpu_experts, n_ubatch in product:
        if flash_attn is False and kv_type != "f16":
            continue  # llama.cpp refuses a quantized V without flash attention
        yield RunSettings(
            n_ctx=n_ctx,
            n_seq_max=n_seq,
            n_outputs_max=n_seq,
            kv_unified=unified,
            n_ubatch=n_ubatch,
            type_k=kv_type,
            type_v=kv_type,
            flash_attn=flash_attn,
            devices=() if device is None else (device,),
            n_gpu_layers=n_gpu_layers,
            cpu_experts=cpu_experts,
            repack=n_ctx == 4096,
            load_mode="none",
        )


def sample(every: Sequence[RunSettings], n: int, seed: int) -> list[RunSettings]:
    """Return n of all settings, always the same ones, with every split among them if n allows."""
    rng = random.Random(seed)
    if n >= len(every):
        return list(every)
    by_split: dict[object, list[RunSettings]] = {}
    for settings in every:
        by_split.setdefault((settings.devices, settings.n_gpu_layers), []).append(settings)
    splits = list(by_split.values())
    rng.shuffle(splits)
    return [rng.choice(split) for split in itertools.islice(itertools.cycle(splits), n)]


def compare_model(name: str, engine: Engine, device: str | None, n_cases: int, mix: str = "Q4_K_M") -> Score:
    """Ask engine and arithmetic about one model in n_cases settings, with a device and without."""
    header_bytes, size = ghost(MODELS[name], mix)
    header = parse_header(header_bytes)
    assert isinstance(header, GGUFHeader)
    estimator = Estimator(header)
    score = Score(name, header.architecture)
    has_experts = any(layer.experts.size for layer in estimator.shape.layers)
    every = [
        settings
        for where in ((None, device) if device is not None else (None,))
        for settings in settings_of(estimator.shape.n_layer, where, has_experts)
    ]
    layouts = read_layouts()
    for sampled in sample(every, n_cases, seed=len(name)):
        settings = replace(sampled, repack=sampled.repack and may_repack(header, layouts))
        devices = tuple(Device(name, "RPC", name, None, 1) for name in settings.devices or ())
        try:
            asked = engine.dry_run(header_bytes, size, settings)
        except LLMRunError as error:
            if engine.has_ended:
                raise
            score.n_refused += 1
            score.off.append(f"refused {_brief(settings)}: {error.message}"[:200])
            continue
        _judge(score, settings, estimator.estimate(settings, Machine(devices, layouts)), asked)
    return score


def _judge(score: Score, settings: RunSettings, estimate: Estimate, asked: EngineMemory) -> None:
    score.n_cases += 1
    pools: list[BufferSizes] = [asked.host, *asked.devices]
    found = [estimate.footprint.host, *estimate.footprint.devices]
    weights = [pool.weights for pool in found]
    score.exact_weights += weights == [pool.weights for pool in pools]
    caches = [pool.kv_cache for pool in found] == [pool.kv_cache for pool in pools]
    whole = (estimate.kv_cache, estimate.state, estimate.output) == (asked.kv_cache, asked.state, asked.output)
    score.exact_cache += caches and whole
    if weights != [pool.weights for pool in pools] or not (caches and whole):
        score.off.append(f"bytes differ: {_brief(settings)}")
    if asked.scaled:  # fewer sequences were asked for than meant: compute is then no figure to be judged by
        score.n_scaled += 1
        return
    for band, pool in zip(estimate.compute, pools, strict=True):
        score.n_pools += 1
        score.exact_compute += band.likely == pool.compute
        good = band_holds(band, pool.compute)
        score.within_band += good
        if pool.compute > _MIB:
            score.worst_error = max(score.worst_error, abs(band.likely - pool.compute) / pool.compute)
        if not good:
            score.off.append(f"compute {band.likely:,} for {pool.compute:,} on {pool.device}: {_brief(settings)}")


def band_holds(band: Band, engine: int) -> bool:
    """Tell whether a band is as good as promised: 10 % or 16 MiB, and its edges about the engine's figure."""
    near = abs(band.likely - engine) <= max(engine // 10, 16 * _MIB)
    return near and band.low <= engine <= band.high and band.high <= engine * 1.25


def _brief(settings: RunSettings) -> str:
    return (
        f"ctx {settings.n_ctx} seq {settings.n_seq_max}{'u' if settings.kv_unified else ''} ub {settings.n_ubatch} "
        f"{settings.type_k} fa {settings.flash_attn} ngl {settings.n_gpu_layers} of {settings.devices} "
        f"cpu_experts {settings.cpu_experts}"
    )


_HEAD = (
    f"{'model':<20}{'architecture':<15}{'cases':>6}{'weights':>9}{'caches':>8}{'compute':>12}{'equal':>7}{'worst':>8}"
)


def score_line(score: Score) -> str:
    """Return a model's row of the table."""
    return (
        f"{score.model:<20}{score.architecture:<15}{score.n_cases:>6}{score.exact_weights:>9}{score.exact_cache:>8}"
        f"{f'{score.within_band}/{score.n_pools}':>12}{score.exact_compute:>7}{score.worst_error:>8.2%}"
    )


def show_engine(options: argparse.Namespace) -> bool:
    """Print the table, and return whether everything is as claimed."""
    print(f"the arithmetic against llama.cpp, {options.cases} cases a model, on the CPU and split with an RPC device")
    print("weights, caches: cases equal to the byte; compute: buffers within their band, those equal, the worst error")
    print(_HEAD)
    scores = []
    with rpc_server() as device:
        for name in options.models or MODELS:
            try:
                with Engine() as engine:
                    scores.append(compare_model(name, engine, device, options.cases))
            except UnknownArchitectureError as error:
                print(f"{name:<20}not judged: {error.message}")
                continue
            print(score_line(scores[-1]), flush=True)
    off = [f"{score.model}: {line}" for score in scores for line in score.off]
    print("\n".join(off))
    n_cases, n_pools = sum(s.n_cases for s in scores), sum(s.n_pools for s in scores)
    print(
        f"{n_cases:,} cases: weights exact in {sum(s.exact_weights for s in scores):,}, caches and state in "
        f"{sum(s.exact_cache for s in scores):,}; {n_pools:,} compute buffers: {sum(s.within_band for s in scores):,} "
        f"within their band, {sum(s.exact_compute for s in scores):,} equal; {sum(s.n_scaled for s in scores):,} cases "
        "too large to be asked for whole"
    )
    return not off


@contextmanager
def rpc_server() -> Iterator[str]:
    """Lend this machine's CPU from a process of its own, as a device that is not the host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-P", "-m", "llmrun.worker.rpc_server", endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()  # it says when it listens
            threading.Thread(target=server.stdout.read, daemon=True).start()
            yield f"rpc:{endpoint}"
        finally:
            server.kill()
