"""Predicted against measured speed: synthetic models of several shapes and quantizations, none of them seen before.

The machine is measured once, as llmrun does it; then each model is predicted and run in the bare loop. The files are
holes with a header: zeros are read and multiplied as fast as any weights, which the first rows show. Others' work only
ever makes a run slower, so that of its turns the edge of the fastest quarter counts, as it does in the measuring; the
turns are spread over rounds of all models, because a machine that is shared has slow minutes.
LLMRUN_BENCH_THREADS says how many threads; more than the machine has to spare tell nothing. LLMRUN_BENCH_LLMFIT is the
path of llmfit's program, whose predictions for the models it knows are then shown beside.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Measure
from llmrun.gguf.encode import build_header, encode_header
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.types import ggml_type_named
from llmrun.memory.placement import place_layers
from llmrun.planning.calibration import Run, calibrate
from llmrun.planning.rates import Rates
from llmrun.planning.speed import Speed, needs, predict
from llmrun.planning.work import ModelWork, model_work
from llmrun.settings import RunSettings
from scripts.architectures.decoder import Decoder
from scripts.architectures.model import Model
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost, write
from scripts.benchmarks.bare import BareLoop
from scripts.benchmarks.table import Row

# Qwen3-30B-A3B with fewer layers, fewer experts and a smaller vocabulary: 2.7 billion weights, a fifth for each token
_EXPERTS = Decoder(
    *("qwen3moe", 8, 2048, 6144, 32, 4, 128, 32000, 40960), rope_base=1e6, n_expert=64, n_expert_used=8, n_ff_exp=768
)
SHAPES: dict[str, Model] = {
    "qwen3-0.6b": MODELS["qwen3-0.6b"],
    "llama-3.2-1b": MODELS["llama-3.2-1b"],
    "moe-2.7b": _EXPERTS.model(),
}
QUANTS = ("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "IQ4_XS")
CASES = [(shape, quant) for shape in ("qwen3-0.6b", "llama-3.2-1b") for quant in QUANTS] + [("moe-2.7b", "Q4_K_M")]
TURNS = 3  # of the comparison with random weights
ROUNDS, TURNS_A_ROUND = 3, 2
N_PROMPT, N_TOKENS = 256, 25
BEFORE, AFTER = 1.20, 1.10  # bars: how far a prediction may be off, either way
_QUIET, _PATIENCE = 0.1, 15.0  # of a processor, in use by others beside those left over; seconds to wait for that


@dataclass(frozen=True, slots=True)
class Judged:
    """A model with what was predicted and what came in each turn, tokens a second."""

    name: str
    speed: Speed
    decode: tuple[float, ...]
    prefill: tuple[float, ...]

    @property
    def run(self) -> Run:
        """The run as llmrun would remember it."""
        speed = self.speed
        return Run(speed.main_type, speed.decode, fast(self.decode), speed.prefill, fast(self.prefill))


def measure_speed(folder: Path) -> list[Row]:
    """Predict and run every case; then calibrate on each and judge all others."""
    threads = int(os.environ.get("LLMRUN_BENCH_THREADS", "1"))
    settings = RunSettings(n_ctx=2048, devices=(), n_threads=threads, n_threads_batch=threads)
    headers = {(shape, quant): header_of(SHAPES[shape], quant) for shape, quant in CASES}
    works = {case: model_work(header) for case, header in headers.items()}
    zeros = _zeros_against_random(folder, settings)
    rates = _measure_machine(works.values(), settings)
    judged = [_predicted(" ".join(case), work, rates, settings) for case, work in works.items()]
    for _ in range(ROUNDS):
        judged = [_judged(one, folder, header, settings) for one, header in zip(judged, headers.values(), strict=True)]
    if program := os.environ.get("LLMRUN_BENCH_LLMFIT"):
        _show_llmfit(program, judged)
    return [*zeros, *_rows(judged)]


_LLMFIT_NAMES = {"qwen3-0.6b": "Qwen/Qwen3-0.6B", "llama-3.2-1b": "meta-llama/Llama-3.2-1B"}


def _show_llmfit(program: str, judged: Sequence[Judged]) -> None:
    """Print what llmfit predicts for decoding; it uses all processors, and one constant for all."""
    for one in judged:
        shape, quant = one.name.split()
        if shape not in _LLMFIT_NAMES:
            continue
        command = [program, "plan", _LLMFIT_NAMES[shape], "--context", "2048", "--quant", quant, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            paths = {path["path"]: path["estimated_tps"] for path in json.loads(done.stdout)["run_paths"]}
            told, came = paths.get("cpu_only"), fast(one.decode)
            if told:
                print(f"llmfit, {one.name:<24} {told:>8.1f} {came:>8.1f} {told / came - 1:>+7.1%}")


def _zeros_against_random(folder: Path, settings: RunSettings) -> list[Row]:
    """The same model with and without weights, in turns."""
    model, mix = SHAPES["qwen3-0.6b"], "Q4_K_M"
    paths = [write_ghost(folder / "zeros.gguf", header_of(model, mix)), folder / "random.gguf"]
    write(paths[1], model, mix)
    times: dict[str, tuple[list[float], list[float]]] = {"decode": ([], []), "prefill": ([], [])}
    with BareLoop(paths[0], settings) as zeros, BareLoop(paths[1], settings) as random:
        for _ in range(TURNS):
            wait_until_quiet(settings.n_threads)
            for place, loop in enumerate((zeros, random)):
                first, rest = loop.measure(N_PROMPT, N_TOKENS)
                times["decode"][place].append((N_TOKENS - 1) / rest)
                times["prefill"][place].append(N_PROMPT / first)
    for path in paths:
        path.unlink()
    return [
        Row(f"{what}, zeros against random weights", "tok/s", tuple(ours), tuple(theirs), 0.95)
        for what, (ours, theirs) in times.items()
    ]


def _measure_machine(works: Iterable[ModelWork], settings: RunSettings) -> Rates:
    rates = Rates()
    with Engine() as engine:
        for work in works:
            wait_until_quiet(settings.n_threads)
            start = time.perf_counter()
            wanted = needs(work, settings)
            if wanted.beyond(rates):
                found = engine.measure(Measure(wanted, rates, settings))
                assert found is not None
                rates = rates.merged(found)
                names = ", ".join(sorted({*found.matrices, *(f"experts of {name}" for name in found.experts)}))
                print(f"measured in {time.perf_counter() - start:.1f} s: {names}", flush=True)
    return rates


def _predicted(name: str, work: ModelWork, rates: Rates, settings: RunSettings) -> Judged:
    placement = place_layers(len(work.layers), 0, ())
    speed = predict(work, settings, placement, rates, n_past=N_PROMPT + N_TOKENS // 2, n_prompt=N_PROMPT)
    assert speed is not None
    return Judged(name, speed, (), ())


def _judged(judged: Judged, folder: Path, header: GGUFHeader, settings: RunSettings) -> Judged:
    """Run a model for the turns of one round, and return it with what came."""
    path = write_ghost(folder / "speed.gguf", header)
    with BareLoop(path, settings) as bare:
        for _ in range(TURNS_A_ROUND):
            wait_until_quiet(settings.n_threads)
            first, rest = bare.measure(N_PROMPT, N_TOKENS)
            decode, prefill = (N_TOKENS - 1) / rest, N_PROMPT / first
            judged = replace(judged, decode=(*judged.decode, decode), prefill=(*judged.prefill, prefill))
    path.unlink()
    print(f"{judged.name:<22} {judged.decode[-1]:>8.1f} {judged.prefill[-1]:>8.1f}", flush=True)
    return judged


def wait_until_quiet(n_threads: int) -> float:
    """Wait until others leave us as many processors, but not for ever; returns how many the others use."""
    end = time.monotonic() + _PATIENCE
    spare = 0.9 * ((os.cpu_count() or 1) - n_threads) + _QUIET
    while True:
        before, own = _busy_seconds(), time.process_time()
        time.sleep(0.4)
        busy = (_busy_seconds() - before - (time.process_time() - own)) / 0.4
        if busy < spare or time.monotonic() > end:
            return busy


def _busy_seconds() -> float:
    """Processor time spent by anybody on this machine; 0 where the system does not say."""
    try:
        fields = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    except OSError:
        return 0.0
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def fast(speeds: Sequence[float]) -> float:
    """Return the slowest of the fastest quarter, at least the second: what the machine does when it is left alone."""
    return sorted(speeds)[-max(2, -(-len(speeds) // 4))]


def _off(predicted: float, measured: float) -> float:
    """How far off, either way, as a factor of at least 1."""
    return math.exp(abs(math.log(predicted / measured)))


def _line(judged: Judged) -> str:
    parts = [f"{judged.name:<22}"]
    for predicted, measured in ((judged.speed.decode, judged.decode), (judged.speed.prefill, judged.prefill)):
        middle = fast(measured)
        reach = (max(measured) - min(measured)) / middle
        parts.append(f"{predicted:>8.1f} {middle:>8.1f} ±{reach / 2:<4.0%} {predicted / middle - 1:>+7.1%}")
    return "  ".join(parts)


def _rows(judged: Sequence[Judged]) -> list[Row]:
    print(
        f"{'':<22}  {'decode':>8} {'measured':>8}       {'error':>7}  {'prefill':>8} {'measured':>8}       {'error':>7}"
    )
    for one in judged:
        print(_line(one))
    rows = []
    for what in ("decode", "prefill"):
        before = [_off(getattr(one.speed, what), fast(getattr(one, what))) for one in judged]
        rows.append(
            Row(f"speed, {what}, worst of {len(judged)}", "off", (max(before),), (1.0,), BEFORE, at_least=False)
        )
        after = _leave_one_in(judged, what)
        rows.append(
            Row(f"speed, {what}, calibrated on one, worst", "off", (max(after),), (1.0,), AFTER, at_least=False)
        )
        within = sum(value <= AFTER for value in after) / len(after)
        rows.append(Row(f"speed, {what}, calibrated, within 10 %", "part", (within,), (1.0,), 1.0))
    return rows


def _leave_one_in(judged: Sequence[Judged], what: str) -> list[float]:
    """Calibrate on each model alone and judge all others: how far off each time."""
    offs = []
    for teacher in judged:
        calibration = calibrate([teacher.run])
        for one in judged:
            if one is not teacher:
                offs.append(_off(getattr(calibration.apply(one.speed), what), fast(getattr(one, what))))
    return offs


def header_of(model: Model, quant: str) -> GGUFHeader:
    """Return the header of a file of this model in this quantization, without a tokenizer."""
    known = quant if quant in ("F16", "Q8_0", "Q4_K_M") else "F16"
    header = parse_header(ghost(model, known)[0])
    assert isinstance(header, GGUFHeader)
    if known == quant:
        return header
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    output = "token_embd.weight" if tied else "output.weight"
    # llama-quant.cpp gives the output 6 bits in all of these, and a few layers of IQ4_XS a little more
    kinds = {True: ggml_type_named("Q6_K"), False: ggml_type_named(quant)}
    tensors = [
        replace(tensor, type=kinds[tensor.name == output]) if tensor.type.name == "F16" else tensor
        for tensor in header.tensors
    ]
    return build_header(header.version, header.metadata, tensors)


def write_ghost(path: Path, header: GGUFHeader, encoded: bytes | None = None) -> Path:
    """Write a file of holes, but for norms, some tokens' embeddings and whatever chooses experts.

    encoded: the header as it stands in the file, where that is known: one that was parsed has lost long arrays.
    """
    rng = np.random.default_rng(0)
    data = encode_header(header) if encoded is None else encoded
    with path.open("wb") as file:
        file.write(data)
        for tensor in header.tensors:
            file.seek(len(data) + tensor.offset)
            if tensor.name.endswith("norm.weight"):
                file.write(struct.pack("<f", 1.0) * tensor.n_elements)
            elif tensor.name.endswith("ffn_gate_inp.weight"):
                file.write(rng.standard_normal(tensor.n_elements, np.float32).tobytes())
            elif tensor.name == "token_embd.weight":
                file.write(_rows_of_numbers(rng, tensor.shape[0], tensor.type.name))
        file.truncate(header.file_size)
    return path


# where a block's scale is: bytes before it; and a value
_SCALES = {"Q8_0": 0, "Q4_0": 0, "IQ4_XS": 0, "Q4_K": 0, "Q6_K": 208}


def _rows_of_numbers(rng: np.random.Generator, n_columns: int, type_name: str, n_rows: int = 256) -> bytes:
    """Return the rows of the tokens that are read: different numbers, so that they choose different experts."""
    if type_name == "F16":
        return rng.standard_normal(n_rows * n_columns, np.float32).astype("<f2").tobytes()
    kind = ggml_type_named(type_name)
    blocks = rng.integers(0, 256, (n_rows * n_columns // kind.block_size, kind.type_size), np.uint8)
    start = _SCALES[type_name]
    blocks[:, start : start + 2] = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
    return blocks.tobytes()
