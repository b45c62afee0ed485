"""planning.speed and its neighbours: laws on made-up machines; nothing here depends on how fast this one is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.types import ggml_type_named
from llmrun.memory.placement import place_layers
from llmrun.planning.calibration import Run, calibrate
from llmrun.planning.device_speeds import device_rates
from llmrun.planning.fitting import fit_batch, fit_experts, fit_one_token, slope, solve, spread, typical
from llmrun.planning.rates import ANY_TYPE, AttentionCost, BaseCosts, Cost, MatrixCost, Needs, Rates
from llmrun.planning.speed import Speed, add_up, batch_terms, decode_terms, needs, predict, touched
from llmrun.planning.work import LayerWork, ModelWork, Product, model_work
from llmrun.settings import RunSettings
from llmrun.worker.probes import header_of, narrow, wide, with_experts
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost

SETTINGS = RunSettings(n_threads=1, n_threads_batch=1)
BASE = BaseCosts(Cost(1e-5), Cost(1e-5), Cost(1e-9))
ATTENTION = {"f16": AttentionCost(Cost(1e-10), Cost(2e-10), Cost(4e-11))}


def matrix(read: float, multiply: float = 2e-11) -> MatrixCost:
    return MatrixCost(Cost(read), Cost(1e-8), Cost(1e-10), Cost(multiply), Cost(1e-9))


TYPES = {"F32": 5e-11, "F16": 5e-11, "Q8_0": 4e-11, "Q6_K": 5e-11, "Q4_K": 6e-11, "Q4_0": 7e-11}
EXPERTS = {name: matrix(TYPES[name], 4e-11) for name in ("Q4_K", "Q6_K")}
MACHINE = Rates(BASE, {name: matrix(read) for name, read in TYPES.items()}, EXPERTS, ATTENTION)


def work_of(name: str, mix: str = "Q8_0") -> ModelWork:
    header = parse_header(ghost(MODELS[name], mix)[0])
    assert isinstance(header, GGUFHeader)
    return model_work(header)


def speed_of(
    work: ModelWork, rates: Rates = MACHINE, settings: RunSettings = SETTINGS, n_past: int = 512, n_prompt: int = 512
) -> Speed:
    placement = place_layers(len(work.layers), 0, ())
    found = predict(work, settings, placement, rates, n_past=n_past, n_prompt=n_prompt)
    assert found is not None
    return found


def dense(type_name: str, n_rows: int) -> ModelWork:
    kind = ggml_type_named(type_name)
    size = 1024 * n_rows // kind.block_size * kind.type_size
    layer = LayerWork((), (Product(type_name, n_rows, 1024, size),), (), None)
    return ModelWork("llama", 1000, (layer, layer), ())


def test_one_token_costs_the_sum_of_its_parts() -> None:
    work = dense("Q8_0", 2048)
    size = 2048 * 1024 * 34 // 32
    seconds = 1e-5 + 2 * 1e-5 + 1000 * 1e-9 + 2 * (size * 4e-11 + 2048 * 1e-8)
    assert speed_of(work).decode == pytest.approx(1 / seconds)


def test_a_batch_multiplies_in_every_layer_but_for_the_last_ones_feed_forward() -> None:
    work = dense("Q8_0", 2048)
    weights = 2048 * 1024
    first = weights * 1e-10 + weights * 100 * 2e-11 + 100 * (1024 + 2048) * 1e-9
    last = weights * 34 / 32 * 4e-11 + 2048 * 1e-8
    found = speed_of(work, n_prompt=100).prefill
    assert found == pytest.approx(100 / (1e-5 + 2 * 1e-5 + first + last))


@given(st.integers(1, 20000))
def test_a_long_prompt_is_predicted_like_its_steps_one_by_one(n_prompt: int) -> None:
    for name in ("qwen3-0.6b", "gemma-3-1b"):  # the second has windows
        work = work_of(name)
        starts = range(0, n_prompt, SETTINGS.n_ubatch)
        steps = (
            batch_terms(work, SETTINGS, lambda *_: MACHINE, done, min(SETTINGS.n_ubatch, n_prompt - done), n_prompt)
            for done in starts
        )
        seconds = sum(total(terms) for terms in steps)
        assert n_prompt / speed_of(work, n_prompt=n_prompt).prefill == pytest.approx(seconds, rel=0.03)


@given(st.integers(1, 64), st.integers(1, 64))
def test_more_bytes_are_never_faster(rows: int, more: int) -> None:
    small, large = (speed_of(dense("Q8_0", 256 * count)) for count in (rows, rows + more))
    assert large.decode < small.decode
    assert large.prefill < small.prefill


@given(st.integers(0, 30000), st.integers(1, 3000))
def test_a_longer_context_is_never_faster(n_past: int, more: int) -> None:
    work = work_of("qwen3-0.6b")
    assert speed_of(work, n_past=n_past + more).decode < speed_of(work, n_past=n_past).decode


def test_a_window_bounds_what_a_longer_context_costs() -> None:
    work = work_of("gemma-3-1b")
    windowed = replace(work, layers=tuple(layer for layer in work.layers if layer.heads and layer.heads.window))
    assert len(windowed.layers) == 22
    assert speed_of(windowed, n_past=30000) == speed_of(windowed, n_past=3000)


def test_a_slower_type_is_slower_and_another_type_does_not_matter() -> None:
    work = work_of("qwen3-0.6b")
    slower = replace(MACHINE, matrices={**MACHINE.matrices, "Q8_0": matrix(5e-11, 3e-11)})
    other = replace(MACHINE, matrices={**MACHINE.matrices, "Q4_0": matrix(5e-10, 3e-10)})
    assert speed_of(work, slower).decode < speed_of(work).decode
    assert speed_of(work, slower).prefill < speed_of(work).prefill
    assert speed_of(work, other) == speed_of(work)


def test_of_experts_only_those_a_token_chooses_are_read() -> None:
    work = work_of("qwen3-30b-a3b", "Q4_K_M")
    experts = [p for layer in work.layers for p in layer.experts]
    assert {(p.share, p.n_expert) for p in experts} == {(8 / 128, 128)}
    as_dense = replace(
        work, layers=tuple(replace(x, experts=tuple(replace(p, share=1.0) for p in x.experts)) for x in work.layers)
    )
    read = sum(p.size * p.share * TYPES[p.type] + p.rows * 8 * 1e-8 for p in experts)
    seconds, all_seconds = 1 / speed_of(work).decode, 1 / speed_of(as_dense).decode
    whole = sum(p.size * TYPES[p.type] + p.rows * 128 * 1e-8 for p in experts)
    assert all_seconds - seconds == pytest.approx(whole - read)


@given(st.integers(1, 4096))
def test_a_batch_needs_more_experts_than_a_token_and_never_more_than_all(n_tokens: int) -> None:
    product = Product("Q4_K", 768, 2048, 1, 8 / 128, 128)
    assert 8 / 128 - 1e-12 <= touched(product, n_tokens) <= 1
    assert touched(product, n_tokens) < touched(product, n_tokens + 1) or touched(product, n_tokens) > 0.999999
    assert touched(replace(product, share=1.0), n_tokens) == 1


def test_published_models_have_as_many_weights_in_their_products_as_in_their_files() -> None:
    for name in ("qwen3-0.6b", "llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v2-lite", "gemma-3-27b", "mamba-2.8b"):
        work, model = work_of(name), MODELS[name]
        products = sum(p.n_weights for p in work.products())
        tied = all(tensor.name != "output.weight" for tensor in model.tensors)
        embedding = 0 if tied else work.n_vocab * model.uint("embedding_length")
        assert products + embedding == pytest.approx(model.n_parameters, rel=0.005), name


def test_what_was_not_measured_is_not_guessed() -> None:
    work = work_of("qwen3-0.6b")
    placement = place_layers(len(work.layers), 0, ())
    for missing in (
        Rates(),
        replace(MACHINE, base=None),
        replace(MACHINE, matrices={}),
        replace(MACHINE, attention={}),
    ):
        assert predict(work, SETTINGS, placement, missing) is None


def test_needs_are_met_by_exactly_what_they_name() -> None:
    work = work_of("qwen3-30b-a3b", "Q4_K_M")
    wanted = needs(work, replace(SETTINGS, type_k="q8_0"))
    kinds = frozenset({"F32", "Q4_K", "Q6_K"})
    assert wanted == Needs(kinds, frozenset({"Q4_K", "Q6_K"}), frozenset({"q8_0"}))
    some = replace(MACHINE, experts={"Q4_K": EXPERTS["Q4_K"]})
    assert wanted.beyond(some) == Needs(frozenset(), frozenset({"Q6_K"}), frozenset({"q8_0"}), base=False)
    rest = Rates(experts={"Q6_K": matrix(1e-10)}, attention={"q8_0": ATTENTION["f16"]})
    assert not wanted.beyond(some.merged(rest))


def test_layers_on_a_device_cost_what_the_device_costs() -> None:
    work = work_of("qwen3-0.6b")
    settings = replace(SETTINGS, devices=("CUDA0",))
    fast = Rates(
        BaseCosts(Cost(0), Cost(0), Cost(0)),
        {ANY_TYPE: MatrixCost(*[Cost(0.0)] * 5)},
        {},
        {ANY_TYPE: AttentionCost(Cost(0), Cost(0), Cost(0))},
    )
    seconds = []
    for n_gpu_layers in (0, 14, 28):
        placement = place_layers(len(work.layers), n_gpu_layers, (1.0,))
        found = predict(work, settings, placement, MACHINE, (fast,))
        assert found is not None
        seconds.append(1 / found.decode)
    # the output counts as the first layer: of 14, 13 are layers
    output = sum(p.size * 4e-11 + p.rows * 1e-8 for p in work.output) + 1e-5
    layer = (seconds[1] - seconds[2]) / 14
    assert seconds[0] - seconds[1] == pytest.approx(13 * layer + output)
    assert predict(work, settings, place_layers(28, 28, (1.0,)), MACHINE, (None,)) is None


def test_experts_kept_on_the_host_are_read_there() -> None:
    work = work_of("qwen3-30b-a3b", "Q4_K_M")
    placement = place_layers(len(work.layers), None, (1.0,))
    device = replace(MACHINE, matrices={ANY_TYPE: matrix(1e-12)}, experts={ANY_TYPE: matrix(1e-12)})
    host = replace(MACHINE, experts={**MACHINE.experts, "Q6_K": matrix(1e-10)})
    found = [predict(work, replace(SETTINGS, cpu_experts=count), placement, host, (device,)) for count in (0, 24, 48)]
    seconds = [1 / one.decode for one in found if one is not None]
    experts = [sum(p.size * p.share * (TYPES[p.type] - 1e-12) for p in layer.experts) for layer in work.layers]
    assert seconds[1] - seconds[0] == pytest.approx(sum(experts[:24]))
    assert seconds[2] - seconds[1] == pytest.approx(sum(experts[24:]))


@given(
    st.floats(2e-11, 2e-10),
    st.floats(1e-9, 3e-9),
    st.floats(1e-11, 3e-11),
    st.floats(1e-12, 1e-10),
    st.floats(1e-10, 2e-9),
)
def test_costs_are_found_again_from_the_times_they_make(
    read: float, row: float, multiply: float, unpack: float, convey: float
) -> None:
    true = MatrixCost(Cost(read), Cost(row), Cost(unpack), Cost(multiply), Cost(convey))
    known = Rates(BASE, {}, {}, ATTENTION)
    rates = known.merged(Rates(matrices={"Q8_0": true}))
    works = [replace(model_work(header_of(probe("Q8_0", 96 << 20))), output=(), n_vocab=0) for probe in (wide, narrow)]

    def alone(work: ModelWork) -> tuple[ModelWork, int, list[float]]:
        return work, 1, [total(decode_terms(work, SETTINGS, lambda *_: rates, 0))]

    def batch(work: ModelWork, n: int) -> tuple[ModelWork, int, list[float]]:
        return work, n, [total(batch_terms(work, SETTINGS, lambda *_: rates, 0, n, n))]

    one = fit_one_token("Q8_0", known, SETTINGS, alone(works[0]), alone(works[1]))
    assert (one.read.seconds, one.row.seconds) == pytest.approx((read, row), rel=1e-6)
    known = known.merged(Rates(matrices={"Q8_0": one}))
    found = fit_batch("Q8_0", known, SETTINGS, batch(works[0], 32), batch(works[0], 128), batch(works[1], 32))
    for n in (32, 128):
        told = known.merged(Rates(matrices={"Q8_0": found}))
        again = total(batch_terms(works[1], SETTINGS, lambda *_, told=told: told, 0, n, n))
        assert again == pytest.approx(batch(works[1], n)[2][0], rel=0.02)


def test_costs_of_experts_are_found_again() -> None:
    true = replace(matrix(6e-11), unpack=Cost(2e-10), multiply=Cost(3e-11), convey=Cost(0))
    known = Rates(BASE, {"Q4_K": matrix(6e-11), "F32": matrix(5e-11)}, {}, ATTENTION)
    rates = known.merged(Rates(experts={"Q4_K": true}))
    work = replace(model_work(header_of(with_experts("Q4_K", 96 << 20))), output=(), n_vocab=0)
    small, large = ((work, n, [total(batch_terms(work, SETTINGS, lambda *_: rates, 0, n, n))]) for n in (32, 128))
    found = fit_experts("Q4_K", known, SETTINGS, small, large)
    assert (found.unpack.seconds, found.multiply.seconds) == pytest.approx((2e-10, 3e-11), rel=1e-6)


def total(terms: object) -> float:
    found = add_up(terms)  # type: ignore[arg-type]
    assert found is not None
    return found[0]


def test_what_a_disturbed_measurement_says_stays_within_reason() -> None:
    assert solve((4.0, 1.0, 9.0), (2.0, 1.0, 5.0), 0.5) == (2.0, 1.0)
    assert solve((4.0, 1.0, 8.0), (2.0, 1.0, 3.0), 0.5) == (2.0, 0.0)  # y would be negative
    assert solve((4.0, 1.0, 4.5), (2.0, 1.0, 4.0), 0.5) == (0.625, 2.0)  # y would be more than half of the second


def test_the_spread_of_samples_leaves_out_a_quarter_on_each_side() -> None:
    samples = [1.0, 2.0, 2.0, 2.2, 2.4, 9.0, 2.0, 2.1]
    assert spread(samples) == pytest.approx(0.2 / 2.05)
    assert typical(samples) == 2.0
    assert slope([1, 2, 3], [10, 12, 14]) == pytest.approx(2)


def test_uncertain_measurements_make_uncertain_predictions() -> None:
    work = work_of("qwen3-0.6b")
    shaky = replace(MACHINE, matrices={"Q8_0": replace(matrix(4e-11), read=Cost(4e-11, 0.5)), "F32": matrix(5e-11)})
    assert speed_of(work, shaky).decode == speed_of(work).decode
    assert speed_of(work).decode_error < speed_of(work, shaky).decode_error < speed_of(work).decode_error + 0.25


# ---- calibration

NO_ERROR = Speed(10.0, 100.0, 0.2, 0.2, "Q4_K")


def test_without_runs_nothing_is_corrected() -> None:
    assert calibrate([]).apply(NO_ERROR) == NO_ERROR


@given(st.floats(0.3, 3), st.floats(0.3, 3), st.lists(st.sampled_from(["Q4_K", "F16", "Q8_0"]), min_size=1, max_size=9))
def test_runs_that_all_miss_by_one_factor_are_believed_but_for_what_may_be_chance(
    decode: float, prefill: float, types: list[str]
) -> None:
    runs = [Run(name, 7.0 + n, (7.0 + n) * decode, 90.0 + n, (90.0 + n) * prefill) for n, name in enumerate(types)]
    for name in ("Q4_K", "IQ3_S"):
        found = calibrate(runs).apply(replace(NO_ERROR, main_type=name))
        assert (found.decode, found.prefill) == pytest.approx((10 * decode, 100 * prefill), rel=0.026)
        assert min(10.0, 10 * decode) - 1e-9 <= found.decode <= max(10.0, 10 * decode) + 1e-9
        doubt = 0.25 * abs(math.log(decode)) / len(runs)  # a large correction that few runs speak for
        assert found.decode_error == pytest.approx(0.10 + doubt, abs=0.026)


def test_a_few_percent_are_believed_when_many_runs_show_them() -> None:
    factors = [calibrate([Run("Q4_K", 100.0, 103.0)] * count).decode.overall for count in (1, 10, 100)]
    assert 1.0 < factors[0] < 1.01 < factors[1] < factors[2] < 1.03
    assert factors[2] > 1.028


def test_a_type_that_misses_by_its_own_factor_is_learned_the_longer_the_better() -> None:
    def factor(count: int) -> float:
        runs = [Run("F16", 10.0, 10.0)] * 20 + [Run("IQ3_S", 10.0, 20.0)] * count
        return calibrate(runs).decode.of("IQ3_S")

    assert 1.0 < factor(1) < factor(2) < factor(8) < 2.0
    assert factor(8) > 1.8
    assert calibrate([Run("F16", 10.0, 10.0)] * 20 + [Run("IQ3_S", 10.0, 20.0)]).decode.of("F16") == 1.0


def test_a_run_on_a_busy_machine_does_little_harm() -> None:
    runs = [Run("Q4_K", 10.0, 11.0)] * 5 + [Run("Q4_K", 10.0, 1.0)]
    assert calibrate(runs).decode.of("Q4_K") == pytest.approx(1.1, rel=0.01)


def test_what_was_not_seen_is_not_corrected() -> None:
    only_decode = calibrate([Run("Q4_K", 10.0, 12.0)])
    assert only_decode.apply(NO_ERROR).prefill == 100.0
    assert only_decode.apply(NO_ERROR).decode == pytest.approx(12.0, rel=0.01)


# ---- devices that are not here


@pytest.mark.parametrize(
    ("name", "tokens"),
    {"NVIDIA GeForce RTX 3090": 115.42, "NVIDIA GeForce RTX 4090": 130.58, "Apple M1 Max": 35.73}.items(),
)
def test_a_known_device_writes_as_fast_as_was_measured_with_it(name: str, tokens: float) -> None:
    work, rates = work_of("llama-3.1-8b", "Q4_K_M"), device_rates(name)
    assert rates is not None
    placement = place_layers(len(work.layers), None, (1.0,))
    found = predict(work, replace(SETTINGS, n_ubatch=512), placement, MACHINE, (rates,), n_past=256)
    assert found is not None
    assert found.decode == pytest.approx(tokens, rel=0.1)


@pytest.mark.parametrize(
    "name",
    ["NVIDIA GeForce GTX 9999", "RTX", "", "NVIDIA GeForce RTX 4090 Laptop GPU", "llvmpipe (LLVM 15.0.6, 256 bits)"],
)
def test_an_unknown_device_has_no_speed(name: str) -> None:
    assert device_rates(name) is None


def test_the_longest_name_that_fits_is_the_devices() -> None:
    plain, better = device_rates("NVIDIA GeForce RTX 3080"), device_rates("NVIDIA GeForce RTX 3080 Ti")
    assert plain is not None
    assert better is not None
    assert plain.matrices[ANY_TYPE].read != better.matrices[ANY_TYPE].read
