"""worker.measure and measurements: what is measured is sane and remembered, and a machine is told from another.

How long anything takes decides nothing here: costs must be positive, not small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Command, Event, Measure, Measured
from llmrun.engine.wire import FrameDecoder, encode
from llmrun.hardware.fingerprint import Fingerprint, parse_cpu_name, read_fingerprint
from llmrun.measurements import MAX_RUNS, Measurements
from llmrun.planning.calibration import Run
from llmrun.planning.rates import AttentionCost, BaseCosts, Cost, MatrixCost, Needs, Rates
from llmrun.settings import RunSettings
from llmrun.worker.probes import CACHE, FEW_LAYERS, HEADS, TOKENS, header_of, narrow, wide, with_experts
from tests.conftest import ONE_THREAD, ask

SETTINGS = replace(ONE_THREAD, devices=())
SMALL = 4 << 20  # bytes: what is measured is partly the cache, which is as good for a test
NEEDS = Needs(frozenset({"Q4_0"}), frozenset(), frozenset({"f16"}))
HERE = Fingerprint("AMD EPYC", 2, ("avx2",), 24, None, ("0.3.36", "libllama.so 1 2"))
FOUND = Rates(
    BaseCosts(Cost(1e-5, 0.1), Cost(1e-6), Cost(1e-9)),
    {"Q4_0": MatrixCost(*[Cost(1e-10)] * 5)},
    {},
    {"f16": AttentionCost(*[Cost(1e-10)] * 3)},
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine() as started:
        yield started


@pytest.fixture(scope="module")
def measured(engine: Engine) -> Rates:
    found = engine.measure(Measure(NEEDS, Rates(), SETTINGS, SMALL))
    assert found is not None
    return found


def costs(rates: Rates) -> list[Cost]:
    kinds: list[BaseCosts | MatrixCost | AttentionCost] = [*rates.matrices.values(), *rates.experts.values()]
    kinds += [*rates.attention.values(), *([rates.base] if rates.base else [])]
    return [getattr(kind, field.name) for kind in kinds for field in fields(kind)]


def test_what_is_needed_is_measured_and_nothing_else(measured: Rates) -> None:
    assert not NEEDS.beyond(measured)
    assert (set(measured.matrices), set(measured.experts), set(measured.attention)) == ({"Q4_0"}, set(), {"f16"})
    assert len(costs(measured)) == 3 + 5 + 3


def test_what_was_measured_is_sane(measured: Rates) -> None:
    assert measured.base is not None
    q4_0, attention = measured.matrices["Q4_0"], measured.attention["f16"]
    # no processor reads a PB/s or needs a microsecond for a byte
    for one in (q4_0.read, q4_0.multiply, attention.decode, measured.base.logit):
        assert 1e-15 < one.seconds < 1e-6
    assert 1e-8 < measured.base.layer.seconds < 0.1
    assert all(one.seconds >= 0 and one.spread >= 0 for one in costs(measured))


def test_what_is_known_is_not_measured_again(engine: Engine, measured: Rates) -> None:
    assert engine.measure(Measure(NEEDS, measured, SETTINGS, SMALL)) == Rates()
    more = engine.measure(Measure(replace(NEEDS, matrices=frozenset({"Q4_0", "Q8_0"})), measured, SETTINGS, SMALL))
    assert more is not None
    assert (more.base, set(more.matrices), more.attention) == (None, {"Q8_0"}, {})


def test_experts_are_measured_with_what_chooses_them(engine: Engine, measured: Rates) -> None:
    found = engine.measure(Measure(Needs(experts=frozenset({"Q4_0"})), measured, SETTINGS, SMALL))
    assert found is not None
    assert (set(found.matrices), set(found.experts)) == ({"F32"}, {"Q4_0"})
    assert found.experts["Q4_0"].multiply.seconds > 0


def test_measuring_can_be_given_up_and_the_engine_works_on(tiny_model: Path) -> None:
    told: list[float] = []

    def give_up(fraction: float) -> bool:
        told.append(fraction)
        return False

    with Engine() as engine:
        assert engine.measure(Measure(NEEDS, Rates(), SETTINGS, 256 << 20), give_up) is None
        assert told
        assert all(0 <= fraction <= 1 for fraction in told)
        engine.load(tiny_model, SETTINGS)
        assert ask(engine, "hello", max_tokens=4)


def test_a_measurement_crosses_the_wall_as_it_is() -> None:
    messages: list[Command | Event] = [Measure(NEEDS, FOUND, SETTINGS, 5), Measured(FOUND), Measured(None)]
    assert FrameDecoder().feed(b"".join(encode(message) for message in messages)) == messages


def test_full_probes_are_as_large_as_wished() -> None:
    probes = [wide("Q4_K", 96 << 20), narrow("Q4_K", 96 << 20), with_experts("Q4_K", 48 << 20)]
    for probe in probes:  # the last has them twice
        assert (96 << 20) * 0.85 < header_of(probe).data_size < (96 << 20) * 1.25
    assert with_experts("Q4_K", 96 << 20).n_expert == 32
    for probe in (wide("Q4_K", 0), narrow("Q4_K", 0)):
        assert probe.n_layer == 2  # of the last, a batch computes nearly nothing


def test_the_other_probes_have_hardly_any_weights() -> None:
    for probe in (FEW_LAYERS, HEADS, TOKENS, CACHE):
        assert header_of(probe).data_size < 16 << 20


# ---- remembered


class Meter:
    """Answers like an engine, and counts."""

    def __init__(self) -> None:
        self.asked: list[Measure] = []

    def __call__(self, question: Measure) -> Rates | None:
        self.asked.append(question)
        missing = question.needs.beyond(question.known)
        return Rates(
            FOUND.base if missing.base else None,
            dict.fromkeys(missing.matrices, FOUND.matrices["Q4_0"]),
            {},
            dict.fromkeys(missing.attention, FOUND.attention["f16"]),
        )


def test_a_machine_is_measured_once(tmp_path: Path) -> None:
    meter = Meter()
    for _ in range(2):
        measurements = Measurements(meter, HERE, tmp_path)
        assert measurements.rates(NEEDS, SETTINGS) == FOUND
        assert measurements.rates(NEEDS, replace(SETTINGS, n_ctx=99, type_k="q8_0")) == FOUND
    assert meter.asked == [Measure(NEEDS, Rates(), SETTINGS)]


def test_only_what_is_new_is_measured(tmp_path: Path) -> None:
    meter = Meter()
    Measurements(meter, HERE, tmp_path).rates(NEEDS, SETTINGS)
    more = replace(NEEDS, matrices=frozenset({"Q4_0", "Q6_K"}))
    found = Measurements(meter, HERE, tmp_path).rates(more, SETTINGS)
    assert found is not None
    assert set(found.matrices) == {"Q4_0", "Q6_K"}
    assert meter.asked[1] == Measure(more, FOUND, SETTINGS)
    assert Measurements(meter, HERE, tmp_path).known(SETTINGS) == found


@pytest.mark.parametrize(
    "changed",
    [
        replace(HERE, cpu="AMD Ryzen 7"),
        replace(HERE, on_battery=True),
        replace(HERE, engine=("0.3.36", "libllama.so 1 3")),
        replace(HERE, memory=32),
        replace(HERE, features=("avx2", "avx512f")),
    ],
)
def test_another_machine_is_measured_anew(tmp_path: Path, changed: Fingerprint) -> None:
    meter = Meter()
    Measurements(meter, HERE, tmp_path).rates(NEEDS, SETTINGS)
    Measurements(meter, changed, tmp_path).rates(NEEDS, SETTINGS)
    assert [question.known for question in meter.asked] == [Rates(), Rates()]


@pytest.mark.parametrize(
    "change",
    [
        {"n_threads": 2},
        {"n_threads_batch": 2},
        {"repack": True},
        {"n_ubatch": 512},
        {"affinity": "cores"},
        {"devices": ("rpc:h:1/0",)},
    ],
    ids=str,
)
def test_another_way_to_run_is_measured_anew(tmp_path: Path, change: dict[str, object]) -> None:
    meter = Meter()
    measurements = Measurements(meter, HERE, tmp_path)
    measurements.rates(NEEDS, SETTINGS)
    measurements.rates(NEEDS, replace(SETTINGS, **change))  # type: ignore[arg-type]
    assert [question.known for question in meter.asked] == [Rates(), Rates()]


def test_on_request_all_is_measured_again(tmp_path: Path) -> None:
    meter = Meter()
    measurements = Measurements(meter, HERE, tmp_path)
    measurements.rates(NEEDS, SETTINGS)
    measurements.rates(NEEDS, SETTINGS, remeasure=True)
    assert [question.known for question in meter.asked] == [Rates(), Rates()]


def test_a_measurement_given_up_leaves_nothing(tmp_path: Path) -> None:
    assert Measurements(lambda _: None, HERE, tmp_path).rates(NEEDS, SETTINGS) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("garbage", [b"", b"\0", b"\0\0\0\x02{}", b"\xff" * 99, encode(Measured(FOUND))[:-9]])
def test_a_damaged_file_is_measured_anew(tmp_path: Path, garbage: bytes) -> None:
    meter = Meter()
    Measurements(meter, HERE, tmp_path).rates(NEEDS, SETTINGS)
    (file,) = tmp_path.iterdir()
    file.write_bytes(garbage)
    assert Measurements(meter, HERE, tmp_path).rates(NEEDS, SETTINGS) == FOUND
    assert len(meter.asked) == 2


def test_without_a_folder_or_where_none_can_be_measuring_works_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for folder in (None, tmp_path / "file"):
        measurements = Measurements(Meter(), HERE, folder)
        assert measurements.rates(NEEDS, SETTINGS) == FOUND
        measurements.remember(Run("Q4_0", 10.0, 11.0), SETTINGS)
        assert measurements.runs(SETTINGS) == ()


def test_runs_are_remembered_the_last_of_them_for_each_way_to_run(tmp_path: Path) -> None:
    runs = [Run("Q4_0", 10.0 + n, 11.0, None, None) for n in range(MAX_RUNS + 3)]
    measurements = Measurements(Meter(), HERE, tmp_path)
    for run in runs:
        measurements.remember(run, SETTINGS)
    again = Measurements(Meter(), HERE, tmp_path)
    assert again.runs(SETTINGS) == tuple(runs[3:])
    assert again.runs(replace(SETTINGS, n_threads=7)) == ()


def test_what_runs_taught_is_forgotten_on_request_for_this_machine_alone(tmp_path: Path) -> None:
    here = Measurements(Meter(), HERE, tmp_path)
    other = Measurements(Meter(), replace(HERE, on_battery=True), tmp_path)
    for measurements in (here, other):
        measurements.remember(Run("Q4_0", 10.0, 11.0), SETTINGS)
    here.remember(Run("Q4_0", 10.0, 11.0), replace(SETTINGS, n_threads=7))
    here.forget_runs()
    assert here.runs(SETTINGS) == here.runs(replace(SETTINGS, n_threads=7)) == ()
    assert len(other.runs(SETTINGS)) == 1


def test_a_file_of_runs_does_not_grow_without_end(tmp_path: Path) -> None:
    measurements = Measurements(Meter(), HERE, tmp_path)
    for n in range(5 * MAX_RUNS):
        measurements.remember(Run("Q4_0", 10.0 + n, 11.0, 12.0, 13.0), SETTINGS)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 100_000
    assert [run.decode_predicted for run in measurements.runs(SETTINGS)] == [
        10.0 + n for n in range(4 * MAX_RUNS, 5 * MAX_RUNS)
    ]


def test_lines_that_are_no_runs_are_left_out(tmp_path: Path) -> None:
    measurements = Measurements(Meter(), HERE, tmp_path)
    run = Run("Q4_0", 10.0, 11.0, 100.0, 90.0)
    measurements.remember(run, SETTINGS)
    (file,) = tmp_path.iterdir()
    line = file.read_bytes()
    bad = [b"{", b"[]", b"null", b'{"main_type": "Q4_0"}', b"\xff\xfe", line.replace(b"11.0", b"-11.0").strip()]
    bad += [line.replace(b"11.0", b"NaN").strip(), line.replace(b'"Q4_0"', b"4").strip()]
    bad += [line.replace(b"true", b"1").strip()]
    file.write_bytes(b"\n".join([*bad, line]))
    assert measurements.runs(SETTINGS) == (run,)


# ---- the machine


def test_a_processors_name_is_found_on_every_architecture() -> None:
    assert parse_cpu_name("processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n") == "AMD EPYC"
    arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n"
    assert parse_cpu_name(arm) == "0x41 0x3 0xd0c"
    assert parse_cpu_name("") is None


def test_this_machine_is_the_same_twice() -> None:
    assert read_fingerprint() == read_fingerprint()
    assert read_fingerprint().key() == read_fingerprint().key()
    assert read_fingerprint().cores >= 1


def test_settings_name_what_costs_hold_for() -> None:
    """A new setting that costs time must come into the key of the files, or be told apart here."""
    no_matter = {"n_ctx", "n_seq_max", "kv_unified", "n_outputs_max", "n_batch", "type_k", "type_v", "swa_full"}
    no_matter |= {"offload_kqv", "n_gpu_layers", "tensor_split", "cpu_experts", "load_mode", "projector"}
    no_matter |= {"n_draft_max", "draft"}  # what is measured is one token a step
    no_matter |= {"loras"}  # a few percent of the model they are put beside
    in_key = {"n_threads", "n_threads_batch", "n_ubatch", "repack", "flash_attn", "affinity", "devices"}
    assert {field.name for field in fields(RunSettings)} == no_matter | in_key
