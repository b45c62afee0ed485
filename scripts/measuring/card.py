"""The plan against a card, where the engine sees one: `scripts/accuracy card`.

Models of published shapes, as files that are holes with a header, are loaded into the card whole and in part. Held
against the plan: what llama.cpp allocated there, what the driver says is gone beyond that once a context was read full,
and how fast it reads and writes. tests/golden/measured keeps what was found, by card.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.protocol import DeviceInfo, Measure
from llmrun.errors import LLMRunError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.source import read_model_header
from llmrun.hardware.nvidia import read_nvidia
from llmrun.memory.footprint import MemoryBreakdown
from llmrun.memory.placement import place_layers
from llmrun.pipeline import open_footprints
from llmrun.planning.device_speeds import default_device_rates, device_rates
from llmrun.planning.host_speeds import default_host_rates
from llmrun.planning.rates import Rates
from llmrun.planning.speed import needs, predict
from llmrun.planning.work import ModelWork, model_work
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost
from scripts.benchmarks.bare import BareLoop
from scripts.benchmarks.speed import write_ghost
from scripts.measuring.system import fill_context

# name, quantization, n_ctx, and how many layers stay on the host
CASES = (
    ("guide", "Q8_0", 2048, 0),
    ("qwen3-0.6b", "Q4_K_M", 4096, 0),
    ("llama-3.2-1b", "Q8_0", 4096, 0),
    ("llama-3.2-1b", "Q8_0", 4096, 8),
    ("qwen3-8b", "Q4_K_M", 4096, 0),
    ("qwen3-8b", "Q4_K_M", 32768, 0),
    ("qwen3-8b", "F16", 4096, 0),
    ("qwen3-30b-a3b", "Q4_K_M", 4096, 0),
    ("qwen3-32b", "Q4_K_M", 4096, 0),
)
N_PROMPT, N_TOKENS, TURNS = 512, 65, 5
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class CardRun:
    """One load. Bytes on the card; tokens a second; None where it was not looked at.

    planned, allocated: weights, KV cache, compute. taken: gone by the driver's word since before the load, the
    driver's own context already there. tables, measured: what is predicted by the card's name, and by measuring it.
    """

    model: str
    quant: str
    n_ctx: int
    n_ubatch: int
    on_host: int
    planned: tuple[int, int, int]
    allocated: tuple[int, int, int]
    taken_loaded: int
    taken_full: int
    load_seconds: float
    decode: float | None = None
    prefill: float | None = None
    tables: tuple[float, float] | None = None
    measured: tuple[float, float] | None = None

    @property
    def overhead(self) -> int:
        """Bytes that the driver and ggml take beside what the plan counts."""
        return self.taken_full - sum(self.allocated)


def show_card(options: argparse.Namespace) -> bool:
    """Print the table, and return whether every plan was right to the byte; writes --json where that is given."""
    with Engine() as engine:
        found = engine.look().devices
    cards = [info for info in found if info.kind in ("GPU", "IGPU") and info.backend != "RPC"]
    if not cards or not read_nvidia().gpus:
        print("card: not judged, the engine sees no card of NVIDIA's, whose driver tells what is free")
        return False
    card, driver = cards[0], read_nvidia().driver
    print(f"the plan against {card.description}: MiB there, and tokens a second")
    print(_HEAD)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for run in _runs(card, Path(folder)):
            runs.append(run)
            print(_line(run), flush=True)
            if options.json:
                about = {"card": card.description, "backend": card.backend, "driver": driver and driver.version}
                options.json.write_text(json.dumps(about | {"runs": [asdict(one) for one in runs]}, indent=1) + "\n")
    n_right = sum(run.planned == run.allocated for run in runs)
    print(f"planned to the byte: {n_right} of {len(runs)}")
    return n_right == len(runs)


def _runs(card: DeviceInfo, folder: Path) -> Iterator[CardRun]:
    written: tuple[str, str] | None = None
    path = embedded_file("Q8_0")
    rates = Rates()
    for name, quant, n_ctx, on_host in CASES:
        if name != "guide" and written != (name, quant):
            path, written = _write(folder / "card.gguf", name, quant), (name, quant)
        header = read_model_header(path)
        n_layer = len(model_work(header).layers)
        settings = RunSettings(
            n_ctx=n_ctx, n_ubatch=512, devices=(card.id,), n_gpu_layers=n_layer + 1 - on_host, n_threads=4
        )
        run = _load(name, quant, path, header, settings, on_host)
        if not on_host and n_ctx <= 4096:
            rates = _measure(rates, model_work(header), settings)
            run = _with_speed(run, path, model_work(header), settings, card, rates)
        yield run


def _write(path: Path, name: str, quant: str) -> Path:
    encoded, _ = ghost(MODELS[name], quant, tokenizer=True)
    header = parse_header(encoded)
    assert isinstance(header, GGUFHeader)
    return write_ghost(path, header, encoded)


def _load(name: str, quant: str, path: Path, header: GGUFHeader, settings: RunSettings, on_host: int) -> CardRun:
    with open_footprints(header, settings.devices) as footprints:
        exact = footprints.exact(settings)
    assert exact is not None, "the engine could not be asked"
    with Engine() as engine:
        engine.look()  # the driver's context is there from now on
        before = _free()
        start = time.perf_counter()
        memory = engine.load(path, settings).memory
        seconds = time.perf_counter() - start
        loaded = _free()
        fill_context(engine)
        full = _free()
    assert memory is not None
    (pool,) = memory.devices
    return CardRun(
        *(name, quant, settings.n_ctx or 0, settings.n_ubatch, on_host, _parts(exact.devices[0])),
        *((pool.weights, pool.kv_cache, pool.compute), before - loaded, before - full, seconds),
    )


def _parts(pool: MemoryBreakdown) -> tuple[int, int, int]:
    return pool.weights, pool.kv_cache, pool.compute


def _free() -> int:
    free = read_nvidia().gpus[0].free
    assert free is not None
    return free


def _measure(rates: Rates, work: ModelWork, settings: RunSettings) -> Rates:
    wanted = needs(work, settings)
    if not wanted.beyond(rates):
        return rates
    start = time.perf_counter()
    try:
        with Engine() as engine:
            found = engine.measure(Measure(wanted, rates, settings))
    except LLMRunError as error:
        print(f"not measured: {error}")
        return rates
    assert found is not None
    print(f"measured in {time.perf_counter() - start:.1f} s: {', '.join(sorted(found.matrices))}", flush=True)
    return rates.merged(found)


def _with_speed(
    run: CardRun, path: Path, work: ModelWork, settings: RunSettings, card: DeviceInfo, rates: Rates
) -> CardRun:
    with BareLoop(path, settings) as bare:
        times = [bare.measure(N_PROMPT, N_TOKENS) for _ in range(TURNS)][1:]
    tables = device_rates(card.description) or default_device_rates(card.backend)
    return replace(
        run,
        decode=median((N_TOKENS - 1) / rest for _, rest in times),
        prefill=median(N_PROMPT / first for first, _ in times),
        tables=_predicted(work, settings, tables),
        measured=_predicted(work, settings, rates),
    )


def _predicted(work: ModelWork, settings: RunSettings, rates: Rates) -> tuple[float, float] | None:
    placement = place_layers(len(work.layers), None, (1.0,))
    host = default_host_rates(settings.n_threads, settings.n_threads_batch, repack=settings.repack)
    past = N_PROMPT + N_TOKENS // 2
    speed = predict(work, settings, placement, host, (rates,), n_past=past, n_prompt=N_PROMPT)
    return None if speed is None else (speed.decode, speed.prefill)


_HEAD = (
    f"{'model':<22}{'n_ctx':>6}{'host':>5}{'planned':>9}{'alloc.':>9}{'taken':>9}{'beside':>8}{'load s':>8}"
    f"{'decode':>9}{'tables':>9}{'measured':>9}{'prefill':>10}{'tables':>10}{'measured':>10}"
)


def _line(run: CardRun) -> str:
    memory = f"{sum(run.planned) / _MIB:>9.1f}{sum(run.allocated) / _MIB:>9.1f}{run.taken_full / _MIB:>9.1f}"
    parts = [f"{run.model + ' ' + run.quant:<22}{run.n_ctx:>6}{run.on_host:>5}{memory}{run.overhead / _MIB:>8.1f}"]
    parts.append(f"{run.load_seconds:>8.2f}")
    if run.decode is not None and run.prefill is not None:
        (decode, prefill), (decode_too, prefill_too) = (told or (0.0, 0.0) for told in (run.tables, run.measured))
        parts.append(f"{run.decode:>9.1f}{decode:>9.1f}{decode_too:>9.1f}")
        parts.append(f"{run.prefill:>10.0f}{prefill:>10.0f}{prefill_too:>10.0f}")
    return "".join(parts)
