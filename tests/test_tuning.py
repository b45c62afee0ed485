"""planning.tuning, planning.trials, tunings and `llmrun tune`: what wins, what is remembered, and who uses it.

How long anything takes decides nothing here: a real run may find whatever it finds.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.engine.client import Engine
from llmrun.errors import GGUFError
from llmrun.gguf.source import read_model_header
from llmrun.hardware.fingerprint import Fingerprint, read_fingerprint
from llmrun.memory.footprint import Footprint, MemoryBreakdown
from llmrun.pipeline import Listener
from llmrun.planning.choose import Ground, choose
from llmrun.planning.offer import Offer
from llmrun.planning.policy import POLICIES
from llmrun.planning.room import Room
from llmrun.planning.sizes import LayerSizes
from llmrun.planning.timing import Timing, Way
from llmrun.planning.trials import Round, findings, rounds, taken, thread_counts, tuned
from llmrun.planning.tuning import FEWEST_TURNS, MARGIN, Tuned, Tuning, best, is_tunable, judge, seconds
from llmrun.planning.work import model_work
from llmrun.reference import LocalRef
from llmrun.settings import Constraints, RunSettings
from llmrun.tuning import open_subject, tune
from llmrun.tunings import Tunings
from tests.conftest import ONE_THREAD, figures

Program = Callable[..., subprocess.CompletedProcess[str]]
HERE = Fingerprint("AMD EPYC", 2, ("avx2",), 24, None, ("0.3.36", "libllama.so 1 2"))
SETTINGS = replace(ONE_THREAD, devices=(), n_gpu_layers=0)
TIMES = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=12)
ALL_ROUNDS = partial(rounds, repackable=True, threads_fixed=False, on_devices=False)
BOUND = Tuning((Tuned("affinity", "nodes", 1.1, "answer"),))
ATTENTION = Tuning((Tuned("flash_attn", False, 1.25, "answer"),))


# ---- what wins


@given(TIMES)
def test_an_option_as_fast_as_the_default_never_wins(times: list[float]) -> None:
    assert not judge(times, times).wins


@given(TIMES, st.floats(1.0, 3.0))
def test_an_option_wins_by_a_margin_in_every_turn_and_not_by_less(times: list[float], gain: float) -> None:
    """Noise that hits both alike is none: only the ratio of a turn counts."""
    verdict = judge(times, [one / gain for one in times])
    assert verdict.ratio == pytest.approx(gain)
    if abs(gain - 1 - MARGIN) > 1e-6:
        assert verdict.wins == (gain > 1 + MARGIN and len(times) >= FEWEST_TURNS)


@given(TIMES, TIMES, st.floats(0.01, 100))
def test_the_unit_of_time_does_not_matter(one: list[float], other: list[float], factor: float) -> None:
    plain = judge(one, other)
    scaled = judge([t * factor for t in one], [t * factor for t in other])
    assert (scaled.ratio, scaled.spread) == pytest.approx((plain.ratio, plain.spread), rel=1e-6, abs=1e-9)


@given(TIMES, TIMES)
def test_of_two_ways_at_most_one_beats_the_other(one: list[float], other: list[float]) -> None:
    assert not (judge(one, other).wins and judge(other, one).wins)


@given(st.lists(TIMES, min_size=2, max_size=4))
def test_the_winner_won_and_none_won_by_more(ways: list[list[float]]) -> None:
    verdicts = [judge(ways[0], way) for way in ways[1:]]
    index = best(verdicts)
    assert (index is None) == (not any(verdict.wins for verdict in verdicts))
    assert index is None or all(one.ratio <= verdicts[index].ratio for one in verdicts if one.wins)


def test_a_gain_within_its_own_spread_is_none() -> None:
    assert not judge([1.0] * 5, [0.5, 0.8, 0.95, 0.9, 0.6]).wins
    assert judge([1.0] * 5, [0.5, 0.52, 0.51, 0.5, 0.53]).wins


def test_an_option_that_is_now_and_then_slower_does_not_win() -> None:
    assert not judge([1.0] * 5, [0.8, 0.8, 0.8, 0.8, 1.1]).wins
    assert judge([1.0] * 8, [0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 1.1]).wins


def test_no_turns_are_no_reason() -> None:
    assert not judge((), ()).wins
    assert seconds(Timing((1e-3,), (0.1,)), "answer") == (512 * 1e-3 + 256 * 0.1,)


# ---- what is tried


def test_a_kv_cache_of_less_precision_is_timed_and_never_taken() -> None:
    """It is twice as fast here; what costs quality is the user's to choose."""
    attention = round_named("attention")
    ways = attention.ways(SETTINGS)
    times = [Timing((0.1,) * 5, (0.1,) * 5), Timing((0.2,) * 5, (0.2,) * 5), Timing((0.05,) * 5, (0.05,) * 5)]
    flash, kv_type = findings(attention, ways, times)
    assert (flash.chosen, kv_type.chosen) == (0, 0)
    assert kv_type.options[1].verdict.wins
    assert "quality" in kv_type.note
    assert taken(SETTINGS, (flash, kv_type)) == SETTINGS
    assert tuned((flash, kv_type)) == ()


def round_named(name: str, settings: RunSettings = SETTINGS) -> Round:
    (found,) = [one for one in ALL_ROUNDS(settings) if one.name == name]
    return found


def names_of(settings: RunSettings = SETTINGS, **told: Any) -> list[str]:
    return [one.name for one in rounds(settings, **told)]


def test_what_was_fixed_or_cannot_be_is_not_tried() -> None:
    two = replace(SETTINGS, n_threads=2)
    assert names_of(two, repackable=True, threads_fixed=False, on_devices=False) == [
        *("threads", "repacking", "batches", "attention")
    ]
    assert names_of(two, repackable=False, threads_fixed=True, on_devices=False) == ["batches", "attention"]
    assert names_of(two, repackable=True, threads_fixed=True, on_devices=True) == ["batches", "attention"]
    quantized = replace(SETTINGS, type_k="q8_0", type_v="q8_0")
    assert names_of(quantized, repackable=False, threads_fixed=True, on_devices=False) == ["batches"]


def test_threads_are_bound_where_several_compute_on_the_host() -> None:
    two = replace(SETTINGS, n_threads=2)
    bound = partial(rounds, repackable=False, threads_fixed=True, affinities=("cores", "nodes"))
    affinity = bound(two, on_devices=False)[0]
    assert affinity.name == "affinity"
    assert affinity.changes == ({"affinity": "cores"}, {"affinity": "nodes"})
    assert affinity.asks(two)
    assert not affinity.asks(SETTINGS)
    assert affinity not in (*bound(SETTINGS, on_devices=False), *bound(two, on_devices=True))


@given(st.integers(1, 512))
def test_threads_are_tried_downwards(n: int) -> None:
    counts = thread_counts(n)
    assert list(counts) == sorted(set(counts), reverse=True)
    assert all(0 < count < n for count in counts)
    assert len(counts) <= 4


@given(st.floats(1e-5, 0.2), st.floats(1e-4, 1.0), st.floats(0.5, 60))
def test_a_round_takes_no_longer_than_it_may(read: float, write: float, budget: float) -> None:
    for one in ALL_ROUNDS(SETTINGS):
        fitting = one.within(budget, SETTINGS, read, write)
        if fitting is not None:
            ways = fitting.ways(SETTINGS)
            assert FEWEST_TURNS * fitting.cost(ways, read, write) <= budget
            assert all(way.n_read + way.n_write + fitting.n_past < (way.settings.n_ctx or 0) for way in ways)


def test_what_won_is_what_is_remembered() -> None:
    base = replace(SETTINGS, n_threads=2, n_threads_batch=2)
    threads = round_named("threads", base)
    found = findings(threads, threads.ways(base), [Timing((0.1,) * 5, (0.2,) * 5), Timing((0.2,) * 5, (0.1,) * 5)])
    assert tuned(found) == (Tuned("n_threads", 1, 2.0, "write"),)
    assert taken(base, found) == replace(base, n_threads=1)


# ---- who uses it


def footprint(settings: RunSettings) -> Footprint:
    """Without flash attention more is needed to compute in, as with llama.cpp."""
    n_ctx = settings.n_ctx or 0
    return Footprint(MemoryBreakdown(weights=1000, kv_cache=n_ctx, compute=n_ctx * (settings.flash_attn is False)))


@pytest.fixture
def offer() -> Offer:
    sizes = LayerSizes((500, 500), (0, 0), 0, 1000)
    return Offer("Q8_0", 0.0, 8.0, 2048, sizes, footprint, lambda _: None, tunings=(ATTENTION,))


def settled(offer: Offer, host: int, constraints: Constraints = Constraints(), *, tuned: bool = True) -> RunSettings:
    ground = Ground((), Room(host), constraints, base=RunSettings(n_threads=2), tuned=tuned)
    choice = choose([offer], ground, POLICIES["balanced"])
    assert choice is not None
    return choice.settings


def test_a_tuned_value_is_taken_and_gives_way_to_memory(offer: Offer) -> None:
    """It must not cost the context: where both fit only without it, the default stays."""
    roomy, tight = settled(offer, 1 << 40), settled(offer, 1000 + 2048)
    assert (roomy.flash_attn, roomy.n_ctx) == (False, 2048)
    assert (tight.flash_attn, tight.n_ctx) == (None, 2048)
    assert settled(offer, 1 << 40, tuned=False).flash_attn is None


def test_the_users_threads_are_the_users(offer: Offer) -> None:
    slower = replace(offer, tunings=(Tuning((Tuned("n_threads", 1, 1.5, "write"),)),))
    assert settled(slower, 1 << 40).n_threads == 1
    assert settled(slower, 1 << 40, Constraints(n_threads=2)).n_threads == 2
    more = replace(offer, tunings=(Tuning((Tuned("n_threads", 64, 1.5, "write"),)),))
    assert settled(more, 1 << 40).n_threads == 2  # the others are busy now


def test_threads_are_bound_as_was_tuned_where_there_are_several(offer: Offer) -> None:
    cores = Tuning((Tuned("affinity", "cores", 1.1, "answer"),))
    bound = replace(offer, tunings=(cores,))
    assert settled(bound, 1 << 40).affinity == "cores"
    assert cores.applied(SETTINGS, Constraints(n_threads=1)) == SETTINGS
    assert cores.reasons(SETTINGS, Constraints(n_threads=1)) == {}
    slower = (Tuned("affinity", "cores", 1.1, "answer"), Tuned("n_threads", 1, 1.5, "write"))
    one = replace(offer, tunings=(Tuning(slower),))
    assert settled(one, 1 << 40).affinity == "free"
    assert settled(bound, 1 << 40, tuned=False).affinity == "free"


def test_what_was_tuned_on_devices_says_nothing_of_the_host(offer: Offer) -> None:
    elsewhere = replace(offer, tunings=(replace(ATTENTION, on_devices=True),))
    assert settled(elsewhere, 1 << 40).flash_attn is None


# ---- remembered


def test_what_was_found_is_remembered_for_its_machine_alone(tiny_model: Path, tmp_path: Path) -> None:
    work = model_work(read_model_header(tiny_model))
    Tunings(HERE, tmp_path).keep(work, (), BOUND)
    assert Tunings(HERE, tmp_path).of(work) == (BOUND,)
    Tunings(HERE, tmp_path).keep(work, (), ATTENTION)
    assert Tunings(HERE, tmp_path).of(work) == (ATTENTION,)
    for changed in (replace(HERE, engine=("0.3.37",)), replace(HERE, cores=1), replace(HERE, on_battery=True)):
        assert Tunings(changed, tmp_path).of(work) == ()
    assert Tunings(HERE, tmp_path).of(replace(work, architecture="qwen3")) == ()
    assert Tunings(HERE, tmp_path).forget(work) == 1
    assert Tunings(HERE, tmp_path).of(work) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"choices": 3}',
        '{"choices": [{"setting": "n_ubatch", "value": 1e9, "ratio": 2, "measure": "read"}]}',
        '{"choices": [{"setting": "type_k", "value": "q4_0", "ratio": 2, "measure": "read"}]}',
        '{"choices": [{"setting": "n_threads", "value": true, "ratio": 2, "measure": "write"}]}',
        '{"choices": [{"setting": "n_threads", "value": 1, "ratio": NaN, "measure": "write"}]}',
        '{"choices": [{"setting": "affinity", "value": "free", "ratio": 2, "measure": "answer"}]}',
        '{"choices": [{"setting": "affinity", "value": 1, "ratio": 2, "measure": "answer"}]}',
        '{"choices": [{"setting": ["n"], "value": 1, "ratio": 2, "measure": "write"}]}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(tiny_model: Path, tmp_path: Path, text: str) -> None:
    work = model_work(read_model_header(tiny_model))
    known = Tunings(HERE, tmp_path)
    known.keep(work, (), ATTENTION)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert not any(tuning.choices for tuning in known.of(work))


def test_only_what_costs_no_quality_can_be_tuned() -> None:
    settings = {field.name for field in fields(RunSettings)}
    values = (1, 128, True, False, "q8_0", "cores", None)
    found = {name for name in settings for value in values if is_tunable(name, value)}
    assert found == {"n_threads", "n_threads_batch", "n_ubatch", "repack", "flash_attn", "affinity"}


def test_what_was_remembered_before_threads_could_be_bound_is_read(tiny_model: Path, tmp_path: Path) -> None:
    work = model_work(read_model_header(tiny_model))
    known = Tunings(HERE, tmp_path)
    known.keep(work, (), BOUND)
    (file,) = tmp_path.iterdir()
    file.write_text(
        '{"choices": [{"setting": "flash_attn", "value": false, "ratio": 1.25, "measure": "answer"}],'
        ' "on_devices": false}'
    )
    assert known.of(work) == (ATTENTION,)


# ---- timed


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine() as started:
        yield started


@pytest.mark.parametrize("together", [True, False])
def test_ways_are_timed_in_turns(engine: Engine, tiny_model: Path, together: bool) -> None:
    base = replace(SETTINGS, n_ctx=256)
    ways = (Way(base, 32, 4), Way(replace(base, flash_attn=False), 32, 4), Way(replace(base, repack=True), 0, 2))
    timings = engine.compare(tiny_model, ways, 0.2, 64, together=together)
    assert timings is not None
    assert len({len(timing.write) for timing in timings}) == 1
    assert [len(timing.read) == len(timing.write) for timing in timings] == [True, True, False]
    assert timings[2].read == ()
    assert all(0 < one < 10 for timing in timings for one in (*timing.read, *timing.write))


def test_a_comparison_can_be_given_up_and_the_engine_works_on(engine: Engine, tiny_model: Path) -> None:
    ways = (Way(replace(SETTINGS, n_ctx=512), 256, 8),) * 2
    assert engine.compare(tiny_model, ways, 60, on_progress=lambda _: False) is None
    assert engine.compare(tiny_model, ways, 0.01) is not None


def test_what_cannot_be_loaded_is_an_error(engine: Engine, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(GGUFError):
        engine.compare(broken, (Way(SETTINGS, 0, 1),), 1)


# ---- llmrun tune


CHOICE = {"setting", "measure", "unit", "default", "chosen", "ratio", "spread", "kept", "note", "options"}


def test_a_model_is_tuned_and_the_plan_knows(llmrun: Program) -> None:
    told = figures(llmrun("tune", "guide", "--threads", "1", "--seconds", "2", "--json", timeout=120))
    names = {"model", "quant", "where", "seconds", "load", "choices", "skipped", "before", "after"}
    assert set(told) == names
    assert all(set(choice) == CHOICE for choice in told["choices"])
    for choice in told["choices"]:
        assert choice["ratio"] == pytest.approx(1.0) or choice["kept"]
        assert choice["options"][0]["value"] == choice["default"]["value"]
    plan = figures(llmrun("plan", "guide", "--threads", "1", "--fast", "--json"))
    for name in ("flash_attn", "n_ubatch", "repack", "type_k"):
        assert plan["settings"][name] == told["after"][name]
    kept = {choice["setting"] for choice in told["choices"] if choice["kept"]}
    assert {reason["setting"] for reason in plan["reasons"] if reason["cause"] == "MEASURED"} == kept


def test_what_is_remembered_is_told_and_forgotten(llmrun: Program, tmp_path: Path, guide_file: Path) -> None:
    work = model_work(read_model_header(guide_file))
    known = Tunings(read_fingerprint(), tmp_path / ".cache" / "llmrun" / "speed")
    known.keep(work, (), ATTENTION)
    assert "measured here: answers 1.25 times as fast" in llmrun("plan", "guide", "--fast").stdout
    assert figures(llmrun("tune", "guide", "--forget", "--json")) == {"model": "guide", "forgotten": 1}
    assert known.of(work) == ()
    assert "measured here" not in llmrun("plan", "guide", "--fast").stdout


def test_nothing_is_kept_where_it_is_broken_off(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    constraints = Constraints(n_threads=1)
    subject = open_subject(LocalRef(tiny_model), constraints, Listener(), offline=True)

    def interrupt(name: str, fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(subject, constraints, 30, interrupt)
    assert list(tmp_path.rglob("*.tuned")) == []


def test_a_time_that_makes_no_sense_is_refused(llmrun: Program) -> None:
    done = llmrun("tune", "guide", "--seconds", "0")
    assert done.returncode == 2
    assert "--seconds takes" in done.stderr
