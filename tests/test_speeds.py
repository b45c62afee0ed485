"""speeds and planning.host_speeds: who is asked, in which order, and what a real answer leaves behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engine.protocol import Measure, Usage
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.types import GGML_TYPES
from llmrun.hardware.device import Device
from llmrun.hardware.fingerprint import Fingerprint
from llmrun.measurements import Measurements
from llmrun.memory.placement import Placement, place_layers
from llmrun.planning.device_speeds import default_device_rates, device_rates
from llmrun.planning.host_speeds import completed, default_host_rates
from llmrun.planning.rates import AttentionCost, BaseCosts, Cost, MatrixCost, Needs, Rates
from llmrun.planning.speed import predict
from llmrun.planning.work import ModelWork, model_work
from llmrun.settings import RunSettings
from llmrun.speeds import Speeds
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost

HERE = Fingerprint("AMD EPYC", 2, ("avx2",), 24, None, ("0.3.36", "libllama.so 1 2"))
SETTINGS = RunSettings(n_threads=2, n_threads_batch=2)
CARD = Device("CUDA0", "CUDA", "NVIDIA GeForce RTX 4090", 24 << 30, 23 << 30)
NOWHERE = Device("CUDA1", "CUDA", "NVIDIA Something", 4 << 30, 3 << 30)
FAST = MatrixCost(*[Cost(1e-12)] * 5)
LONG = Usage(462, 0, 462, 100, 3.08, 4.0, 1)  # 150 and 25 tokens a second, around 512 of context


def header_of(name: str = "qwen3-0.6b", mix: str = "Q4_K_M") -> GGUFHeader:
    header = parse_header(ghost(MODELS[name], mix)[0])
    assert isinstance(header, GGUFHeader)
    return header


WORK = model_work(header_of())
N_LAYER = len(WORK.layers)
ON_HOST, ON_CARD, SPLIT = (place_layers(N_LAYER, n, (1.0,)) for n in (0, None, 10))


class Meter:
    """Answers like an engine, and counts."""

    def __init__(self, *, gives_up: bool = False) -> None:
        self.asked: list[Measure] = []
        self._gives_up = gives_up

    def __call__(self, question: Measure) -> Rates | None:
        self.asked.append(question)
        if self._gives_up:
            return None
        missing = question.needs.beyond(question.known)
        return Rates(
            BaseCosts(*[Cost(1e-12)] * 3) if missing.base else None,
            dict.fromkeys(missing.matrices, FAST),
            dict.fromkeys(missing.experts, FAST),
            dict.fromkeys(missing.attention, AttentionCost(*[Cost(1e-13)] * 3)),
        )


def speeds_in(folder: Path, meter: Meter | None = None) -> Speeds:
    return Speeds(Measurements(meter or Meter(), HERE, folder), 2)


def decode_of(speeds: Speeds, work: ModelWork = WORK, placement: Placement = ON_HOST, *devices: Device) -> float:
    found = speeds.predict(work, SETTINGS, placement, devices)
    assert found is not None
    return found.decode


# ---- without measurements


def test_a_machine_of_which_nothing_is_known_has_the_usual_speed() -> None:
    speeds = Speeds(None, 2)
    assert speeds.host_rates(SETTINGS) == default_host_rates(2, 2)
    assert speeds.predict(WORK, SETTINGS, ON_HOST, ()) == predict(WORK, SETTINGS, ON_HOST, default_host_rates(2, 2))
    assert not speeds.is_measured(WORK, SETTINGS)
    assert not speeds.measure(WORK, SETTINGS)
    assert speeds.throughput(SETTINGS) is None


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_we_know_has_a_speed_on_any_machine(name: str) -> None:
    work = model_work(header_of(name))
    for settings in (SETTINGS, replace(SETTINGS, type_k="q8_0", type_v="q8_0"), replace(SETTINGS, repack=True)):
        for placement in (place_layers(len(work.layers), n, (1.0,)) for n in (0, 3, None)):
            found = Speeds(None, 2).predict(work, settings, placement, (NOWHERE,))
            assert found is not None
            assert 0.01 < found.decode < 20000
            assert found.decode_error > 0.15


def test_types_looked_up_in_tables_are_slower_than_their_size_on_a_host() -> None:
    rates = default_host_rates(1).matrices
    for name in ("IQ3_S", "IQ2_XS", "IQ1_M"):
        assert rates[name].read.seconds > 2 * rates["Q4_K"].read.seconds
    computed = {kind.name for kind in GGML_TYPES.values()} - {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}
    assert computed - set(rates) <= {"Q1_0", "Q2_0"}  # these are in no file yet


def test_more_threads_are_faster_until_the_memory_is_not() -> None:
    reads = [default_host_rates(n).matrices["Q4_K"].read.seconds for n in (1, 2, 4, 8, 16)]
    assert reads[0] == pytest.approx(2 * reads[1])
    assert reads[2] == reads[3] == reads[4]
    batches = [default_host_rates(1, n).matrices["Q4_K"].multiply.seconds for n in (1, 2, 16)]
    assert batches == pytest.approx([batches[0], batches[0] / 2, batches[0] / 16])


def test_the_processors_own_layout_helps_the_types_it_is_made_for() -> None:
    plain, repacked = default_host_rates(2).matrices, default_host_rates(2, repack=True).matrices
    assert repacked["Q4_0"].multiply.seconds < plain["Q4_0"].multiply.seconds
    assert repacked["Q4_K"].multiply.seconds > plain["Q4_K"].multiply.seconds
    assert repacked["Q6_K"] == plain["Q6_K"]


def test_amx_helps_matrices_of_its_types_and_no_experts() -> None:
    plain, repacked = (default_host_rates(2, repack=True, in_amx=types) for types in ((), ("Q4_K", "Q8_0")))
    assert repacked.matrices["Q4_K"].read.seconds < plain.matrices["Q4_K"].read.seconds
    assert repacked.matrices["Q8_0"].multiply.seconds < plain.matrices["Q8_0"].multiply.seconds
    assert repacked.matrices["Q5_K"] == plain.matrices["Q5_K"]
    assert repacked.experts == plain.experts
    assert default_host_rates(2, in_amx=("Q4_K",)) == default_host_rates(2)


def test_a_device_is_known_by_its_name_or_by_its_backend() -> None:
    speeds = Speeds(None, 2)
    assert speeds.device_rates(CARD) == device_rates(CARD.name)
    assert speeds.device_rates(NOWHERE) == default_device_rates("CUDA")
    assert default_device_rates("Vulkan") == default_device_rates("something new")
    slow, fast = (rates.matrices["*"].read.seconds for rates in map(default_device_rates, ("Vulkan", "CUDA")))
    assert slow > fast


def test_layers_on_a_card_are_faster() -> None:
    speeds = Speeds(None, 2)
    host, split, card = (decode_of(speeds, WORK, placement, CARD) for placement in (ON_HOST, SPLIT, ON_CARD))
    assert host < split < card


# ---- measured


def test_what_was_measured_is_believed(tmp_path: Path) -> None:
    meter = Meter()
    speeds = speeds_in(tmp_path, meter)
    before = decode_of(speeds)
    assert speeds.measure(WORK, SETTINGS)
    assert speeds.is_measured(WORK, SETTINGS)
    assert decode_of(speeds) > 10 * before
    assert decode_of(speeds_in(tmp_path)) == decode_of(speeds)
    assert speeds.measure(WORK, SETTINGS)
    assert len(meter.asked) == 1
    assert not speeds.is_measured(WORK, replace(SETTINGS, n_threads=1))


def test_the_host_is_measured_also_where_layers_are_on_devices(tmp_path: Path) -> None:
    meter = Meter()
    assert speeds_in(tmp_path, meter).measure(WORK, replace(SETTINGS, devices=("CUDA0",), n_gpu_layers=3))
    assert [question.settings.devices for question in meter.asked] == [()]
    assert speeds_in(tmp_path).is_measured(WORK, SETTINGS)


def test_a_measurement_given_up_changes_nothing(tmp_path: Path) -> None:
    speeds = speeds_in(tmp_path, Meter(gives_up=True))
    before = decode_of(speeds)
    assert not speeds.measure(WORK, SETTINGS)
    assert decode_of(speeds) == before


def test_on_request_it_is_measured_again_and_what_runs_taught_is_forgotten(tmp_path: Path) -> None:
    meter = Meter()
    speeds = speeds_in(tmp_path, meter)
    speeds.measure(WORK, SETTINGS)
    measured = decode_of(speeds)
    speeds.record(WORK, SETTINGS, ON_HOST, (), LONG)
    assert decode_of(speeds) < measured
    assert speeds.measure(WORK, SETTINGS, remeasure=True)
    assert decode_of(speeds) == measured
    assert [bool(question.known.matrices) for question in meter.asked] == [False, False]


def test_types_not_measured_are_as_much_faster_than_usual_as_those_that_were() -> None:
    usual = default_host_rates(1)
    half = usual.matrices["Q8_0"]
    known = Rates(matrices={"Q8_0": replace(half, read=Cost(half.read.seconds / 2, 0.1))})
    found = completed(known, usual)
    assert found.matrices["Q8_0"] == known.matrices["Q8_0"]
    for name in ("Q4_K", "IQ3_S"):
        assert found.matrices[name].read.seconds == pytest.approx(usual.matrices[name].read.seconds / 2)
        assert found.matrices[name].multiply == usual.matrices[name].multiply
    assert completed(Rates(), usual) == usual


def test_the_throughput_is_that_of_the_fastest_type(tmp_path: Path) -> None:
    speeds = speeds_in(tmp_path)
    speeds.measure_needs(Needs(frozenset({"Q8_0"})), SETTINGS)
    found = speeds.throughput(SETTINGS)
    assert found is not None
    assert (found.bandwidth, found.bandwidth_type, found.multiply_adds) == pytest.approx((1e12, "Q8_0", 1e12))
    assert (found.n_threads, found.n_threads_batch) == (2, 2)


# ---- real runs


def test_a_real_answer_teaches_the_next_prediction(tmp_path: Path) -> None:
    speeds = speeds_in(tmp_path)
    before = decode_of(speeds)
    speeds.record(WORK, SETTINGS, ON_HOST, (), LONG)
    first = decode_of(speeds)
    assert abs(first - 25) < abs(before - 25)
    for _ in range(20):
        speeds.record(WORK, SETTINGS, ON_HOST, (), LONG)
    assert abs(decode_of(speeds) - 25) < abs(first - 25)
    assert decode_of(speeds_in(tmp_path)) == decode_of(speeds)
    assert speeds.predict(WORK, SETTINGS, ON_HOST, ()) is not None


@pytest.mark.parametrize(
    ("usage", "decode", "prefill"),
    [
        (LONG, 25.0, 150.0),
        (replace(LONG, completion_tokens=31), None, 150.0),
        (replace(LONG, read_tokens=127, cached_tokens=0), 25.0, None),
        (replace(LONG, cached_tokens=500, prompt_tokens=962), 25.0, None),
    ],
)
def test_parts_of_an_answer_too_short_to_tell_anything_are_left_out(
    tmp_path: Path, usage: Usage, decode: float | None, prefill: float | None
) -> None:
    measurements = Measurements(Meter(), HERE, tmp_path)
    Speeds(measurements, 2).record(WORK, SETTINGS, ON_HOST, (), usage)
    (run,) = measurements.runs(SETTINGS)
    assert (run.decode, run.prefill, run.main_type) == (decode, prefill, "Q4_K")
    assert (run.decode_predicted is None, run.prefill_predicted is None) == (decode is None, prefill is None)


def test_a_short_answer_leaves_nothing(tmp_path: Path) -> None:
    speeds_in(tmp_path).record(WORK, SETTINGS, ON_HOST, (), Usage(20, 0, 20, 5, 0.1, 0.2, 1))
    assert list(tmp_path.iterdir()) == []


def test_what_runs_on_the_host_teach_is_not_held_against_a_card(tmp_path: Path) -> None:
    speeds = speeds_in(tmp_path)
    card, split = (decode_of(speeds, WORK, placement, CARD) for placement in (ON_CARD, SPLIT))
    speeds.record(WORK, replace(SETTINGS, devices=("CUDA0",)), ON_HOST, (CARD,), LONG)
    assert (decode_of(speeds, WORK, ON_CARD, CARD), decode_of(speeds, WORK, SPLIT, CARD)) == (card, split)
    speeds.record(WORK, SETTINGS, ON_CARD, (CARD,), LONG)
    assert decode_of(speeds, WORK, ON_CARD, CARD) < card
    assert decode_of(speeds, WORK, SPLIT, CARD) == split


def test_how_far_tables_miss_says_nothing_of_what_was_measured(tmp_path: Path) -> None:
    speeds = speeds_in(tmp_path)
    speeds.record(WORK, SETTINGS, ON_HOST, (), LONG)
    speeds.measure(WORK, SETTINGS)
    alone = speeds_in(tmp_path / "other")
    alone.measure(WORK, SETTINGS)
    assert decode_of(speeds) == decode_of(alone)


def test_recording_fails_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    unwritable = Speeds(Measurements(Meter(), HERE, tmp_path / "file"), 2)
    unwritable.record(WORK, SETTINGS, ON_HOST, (), LONG)
    assert (tmp_path / "file").read_text() == "no folder"


def test_what_was_measured_on_a_busy_machine_is_not_believed() -> None:
    calm, wild = Cost(1e-9, 0.1), Cost(1e-6, 2.8)
    matrices = {"Q8_0": MatrixCost(calm, calm, calm, calm, calm), "Q4_K": MatrixCost(wild, calm, calm, calm, calm)}
    attention = {"f16": AttentionCost(calm, calm, wild), "q8_0": AttentionCost(wild, calm, calm)}
    rates = Rates(None, matrices, {"Q4_K": matrices["Q4_K"]}, attention).steady(1.0)
    assert set(rates.matrices) == {"Q8_0"}
    assert set(rates.experts) == {"Q4_K"}
    assert set(rates.attention) == {"q8_0"}
