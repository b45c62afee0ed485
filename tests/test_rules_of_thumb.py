"""memory.rules_of_thumb: the classic formulas, and what llama.cpp really takes."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.memory import rules_of_thumb as rules
from llmrun.memory.rules_of_thumb import SHAPES, DenseShape, GivenShape, guess_shape, parse_bits
from tests.engine_source import extract_folder

GIB = 1 << 30
BY_NAME = {shape.name: shape for shape in SHAPES}
LLAMA_2_7B = BY_NAME["Llama 2 7B"]


# -- the source's figures


@pytest.mark.parametrize(("bits", "size", "said"), [(32, 71_520_098_304, 66), (4, 8_940_012_288, 8)])
def test_the_popular_formula_gives_the_figures_it_is_quoted_with(bits: int, size: int, said: int) -> None:
    """7 billion parameters, b=1, s=2048, l=32, a=32, h=4096: "66 GB" at 32 bits and "8 GB" at 4, both in fact GiB."""
    result = rules.estimate_activations(7 * 10**9, Fraction(bits), LLAMA_2_7B, 2048, 1)
    assert (result.size, result.size // GIB) == (size, said)


def test_the_papers_sum_over_all_layers_gives_more() -> None:
    result = rules.estimate_activations_per_layer(7 * 10**9, Fraction(32), LLAMA_2_7B, 2048, 1)
    assert result.size == 89_203_283_968
    assert f"{result.size / GIB:.1f}" == "83.1"


def test_a_layer_at_16_bits_is_the_papers_bytes() -> None:
    """s·b·h·(34 + 5·a·s/h)"""
    s, b, h, a = 2048, 3, 4096, 32
    one, none = (
        rules.estimate_activations_per_layer(0, Fraction(16), shape, s, b).size
        for shape in (DenseShape("", 1, a, a, 128, h, 1, 1), DenseShape("", 0, a, a, 128, h, 1, 1))
    )
    assert one - none == s * b * h * 34 + 5 * a * s * s * b


def test_seven_billion_weights_take_14_gb_at_16_bits() -> None:
    assert rules.estimate_weights(7 * 10**9, Fraction(16)).size == 14 * 10**9


def test_a_part_of_a_byte_is_a_byte() -> None:
    assert rules.estimate_weights(3, Fraction(3)).size == 2


# -- what llama.cpp takes


# KV cache and compute buffer as a dry run of llama.cpp 0c1e57098 allocates them on the CPU: F16 weights, n_ubatch 128,
# n_outputs_max = n_seq_max, flash attention.
ENGINE = [
    ("Llama 3.2 1B", 4096, 1, 134_217_728, 17_828_896),
    ("Llama 2 7B", 2048, 1, 1_073_741_824, 25_824_288),
    ("Llama 2 7B", 100, 1, 134_217_728, 19_816_864),
    ("Llama 3.1 8B", 4096, 1, 536_870_912, 31_460_384),
    ("Llama 3.1 8B", 131072, 1, 17_179_869_184, 63_966_240),
    ("Llama 3.1 8B", 4096, 4, 2_147_483_648, 31_460_384),
    ("Llama 3.1 8B", 1000, 3, 402_653_184, 30_913_696),
    ("Qwen3 8B", 4096, 1, 603_979_776, 28_314_656),
    ("Qwen3 32B", 131072, 1, 34_359_738_368, 84_937_760),
    ("Llama 3.1 405B", 1000, 3, 1_585_446_912, 116_511_904),
]


@pytest.mark.parametrize(("name", "n_tokens", "n_seq", "kv_cache", "compute"), ENGINE)
def test_inference_is_what_the_engine_allocates(
    name: str, n_tokens: int, n_seq: int, kv_cache: int, compute: int
) -> None:
    shape = BY_NAME[name]
    found = rules.estimate_inference(shape.n_params, Fraction(16), shape, n_tokens, n_seq)
    assert (found.weights.size, found.kv_cache.size, found.compute.size) == (2 * shape.n_params, kv_cache, compute)
    assert found.size == 2 * shape.n_params + kv_cache + compute


def test_where_another_moment_is_the_widest_the_estimate_is_above_the_engine() -> None:
    found = rules.estimate_inference(0, Fraction(16), BY_NAME["Qwen3 0.6B"], 2048, 1)
    assert 7_343_136 <= found.compute.size <= 7_343_136 + (1 << 20)


@pytest.mark.parametrize(
    ("name", "n_tokens", "n_seq", "engine"),
    [
        ("Llama 3.1 8B", 512, 64, 35_979_776),
        ("Llama 3.1 8B", 512, 256, 71_959_552),
        ("Qwen3 1.7B", 512, 64, 40_468_992),
    ],
)
def test_with_many_sequences_the_logits_are_the_widest(name: str, n_tokens: int, n_seq: int, engine: int) -> None:
    found = rules.estimate_inference(0, Fraction(16), BY_NAME[name], n_tokens, n_seq)
    assert engine <= found.compute.size <= engine + 8192


# -- laws

PARAMS = st.integers(10**6, 10**12)
BITS = st.sampled_from([Fraction(1), Fraction(4), Fraction("4.8944"), Fraction(16), Fraction(32)])
SHAPE = st.sampled_from(SHAPES)
TOKENS = st.integers(1, 200_000)
BATCH = st.integers(1, 64)
ALL = (rules.estimate_activations, rules.estimate_activations_per_layer, rules.estimate_inference)


@given(PARAMS, BITS, SHAPE, TOKENS, st.integers(0, 10**6))
def test_every_formula_grows_with_parameters_bits_tokens_and_layers(
    n_params: int, bpw: Fraction, shape: DenseShape, n_tokens: int, more: int
) -> None:
    wider = guess_shape(
        shape.n_params, GivenShape(shape.n_layer + 1, shape.n_head, shape.n_head_kv, shape.n_embd)
    ).shape
    for formula in ALL:
        size = formula(n_params, bpw, shape, n_tokens, 1).size
        assert size <= formula(n_params + more, bpw, shape, n_tokens, 1).size
        assert size < formula(n_params, bpw + 1, shape, n_tokens, 1).size
        assert size <= formula(n_params, bpw, shape, n_tokens + more, 1).size
        assert size < formula(n_params, bpw, shape, n_tokens, 2).size
        if wider.n_layer == shape.n_layer + 1 and wider.n_ff == shape.n_ff:
            assert size < formula(n_params, bpw, wider, n_tokens, 1).size


@given(PARAMS, st.integers(1, 32), SHAPE, TOKENS, BATCH)
def test_twice_the_bits_are_twice_the_bytes(
    n_params: int, bits: int, shape: DenseShape, n_tokens: int, n_batch: int
) -> None:
    whole = Fraction(8 * bits)  # whole bytes: nothing is rounded
    assert 2 * rules.estimate_weights(n_params, whole).size == rules.estimate_weights(n_params, 2 * whole).size
    for formula in (rules.estimate_activations, rules.estimate_activations_per_layer):
        twice = formula(n_params, 2 * whole, shape, n_tokens, n_batch).size
        assert twice <= 2 * formula(n_params, whole, shape, n_tokens, n_batch).size <= twice + 1


@given(PARAMS, BITS, SHAPE, TOKENS, BATCH)
def test_no_formula_is_below_the_weights(
    n_params: int, bpw: Fraction, shape: DenseShape, n_tokens: int, n_batch: int
) -> None:
    weights = rules.estimate_weights(n_params, bpw).size
    popular, paper, inference = (formula(n_params, bpw, shape, n_tokens, n_batch).size for formula in ALL)
    assert weights < popular <= paper
    assert weights < inference


# -- tables


def test_the_known_shapes_have_the_published_parameter_counts() -> None:
    assert {shape.name: shape.n_params for shape in SHAPES} == {
        "Qwen3 0.6B": 596_049_920,
        "Llama 3.2 1B": 1_235_814_400,
        "Qwen3 1.7B": 1_720_574_976,
        "Llama 3.2 3B": 3_212_749_824,
        "Qwen3 4B": 4_022_468_096,
        "Llama 2 7B": 6_738_415_616,
        "Llama 3.1 8B": 8_030_261_248,
        "Qwen3 8B": 8_190_735_360,
        "Llama 2 13B": 13_015_864_320,
        "Qwen3 14B": 14_768_307_200,
        "Qwen3 32B": 32_762_123_264,
        "Llama 3.1 70B": 70_553_706_496,
        "Llama 3.1 405B": 405_853_388_800,
    }


def test_the_bits_of_quantizations_are_those_in_llama_cpps_table() -> None:
    text = (extract_folder("tools/quantize") / "README.md").read_text("utf-8")
    published: dict[str, str] = {}
    for names, values in re.findall(r"\| Measure +\|(.+)\|\n.*\n\| bits/weight +\|(.+)\|", text):
        published |= zip(*([cell.strip() for cell in row.split("|")] for row in (names, values)), strict=True)
    assert len(published) == 24
    assert published.pop("F16") == "16.0005"  # its norms are in 32 bits
    assert {name: rules.QUANT_BPW[name] for name in published} == {n: Fraction(v) for n, v in published.items()}


def test_the_bits_of_quantizations_give_the_sizes_in_llama_cpps_source() -> None:
    source = (extract_folder("tools/quantize") / "quantize.cpp").read_text("utf-8")
    sizes = dict(re.findall(r'\{ "(\w+)", .*?" *([\d.]+)G, \+[\d.]+ ppl @ Llama-3-8B"', source))
    assert {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_M", "Q8_0"} <= set(sizes)
    del sizes["Q2_K_S"]  # there it is the size of Q2_K; the table has 2.78 GiB
    for name, size in sizes.items():
        ours = rules.estimate_weights(BY_NAME["Llama 3.1 8B"].n_params, rules.QUANT_BPW[name]).size / GIB
        assert ours == pytest.approx(float(size), abs=0.021), name


# -- reading what was typed


@pytest.mark.parametrize(
    ("text", "name", "bpw"),
    [
        ("16", "16", Fraction(16)),
        ("4.5", "4.5", Fraction(9, 2)),
        ("q4_k_m", "Q4_K_M", Fraction("4.8944")),
        ("Q4_K", "Q4_K_M", Fraction("4.8944")),
        (" f16 ", "F16", Fraction(16)),
    ],
)
def test_bits_are_a_number_or_a_quantization(text: str, name: str, bpw: Fraction) -> None:
    assert parse_bits(text) == rules.Precision(name, bpw)


@pytest.mark.parametrize("text", ["", "0", "32.5", "65", "-4", "Q4_K_X", "four", "1e1", "nan", "9" * 99])
def test_other_bits_are_refused_with_what_to_type(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bits(text)
    assert re.match(r"did you mean Q4_K_|--bits 16", caught.value.hint or "")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_known_models_own_size_gives_its_shape(shape: DenseShape) -> None:
    found = guess_shape(shape.n_params, GivenShape())
    assert found == rules.ShapeGuess(shape, shape, ("n_layer", "n_head", "n_head_kv", "n_embd"))


def test_of_models_of_a_size_the_one_that_agrees_with_what_is_given_is_taken() -> None:
    assert guess_shape(8 * 10**9, GivenShape(n_layer=36)).like.name == "Qwen3 8B"
    assert guess_shape(7 * 10**9, GivenShape(n_layer=36)).like.name == "Qwen3 8B"
    assert guess_shape(8 * 10**9, GivenShape()).like.name == "Llama 3.1 8B"
    assert guess_shape(10**12, GivenShape(n_layer=36)).like.name == "Llama 3.1 405B"


@given(
    PARAMS, st.integers(1, 200), st.sampled_from([8, 16, 32]), st.sampled_from([1, 2, 8]), st.sampled_from([512, 4096])
)
def test_what_the_user_gave_stands(n_params: int, layers: int, heads: int, kv_heads: int, hidden: int) -> None:
    shape = guess_shape(n_params, GivenShape(layers, heads, kv_heads, hidden)).shape
    assert (shape.n_layer, shape.n_head, shape.n_head_kv, shape.n_embd) == (layers, heads, kv_heads, hidden)


def test_an_unknown_width_gets_a_feed_forward_of_eight_thirds() -> None:
    shape = guess_shape(7 * 10**9, GivenShape(n_head=16, n_embd=2000)).shape
    assert (shape.head_dim, shape.n_head_kv, shape.n_ff) == (125, 16, 5376)


@pytest.mark.parametrize("given", [GivenShape(n_head=48), GivenShape(n_head_kv=5), GivenShape(n_head_kv=64)])
def test_heads_that_do_not_divide_are_refused(given: GivenShape) -> None:
    with pytest.raises(UsageError, match="cannot be divided among"):
        guess_shape(7 * 10**9, given)


# -- this machine

RESERVE, DEVICE_RESERVE = 1200 << 20, GIB
TAKES = rules.estimate_inference(7 * 10**9, Fraction(16), LLAMA_2_7B, 4096, 1)


def fit(host: int, *free: int) -> rules.Fit:
    devices = tuple((f"CUDA{index}", size) for index, size in enumerate(free))
    return rules.estimate_fit(TAKES, 32, rules.FreeMemory(host, RESERVE, devices, DEVICE_RESERVE))


def test_a_model_runs_from_ram_alone_when_it_and_the_reserve_fit() -> None:
    enough = TAKES.size + RESERVE
    assert fit(enough) == rules.Fit(True, False, False, 0, TAKES.size)
    assert fit(enough - 1) == rules.Fit(False, False, False, 0, TAKES.size)


def test_a_gpu_that_takes_all_needs_no_ram_for_layers() -> None:
    found = fit(0, TAKES.size + DEVICE_RESERVE + 33)
    assert found == rules.Fit(False, True, False, 33, TAKES.compute.size)


def test_in_mixed_mode_the_layers_that_do_not_fit_stay_on_the_host() -> None:
    found = fit(8 * GIB, 12 * GIB)
    layer = -(-(TAKES.size - TAKES.compute.size) // 33)
    assert found.n_gpu_layers == (11 * GIB - TAKES.compute.size) // layer == 24
    assert found == rules.Fit(False, False, True, 24, TAKES.size - 24 * layer)
    assert not fit(found.host_bytes + RESERVE - 1, 12 * GIB).mixed


def test_a_layer_needs_its_last_byte() -> None:
    layer = -(-(TAKES.size - TAKES.compute.size) // 33)
    ten = DEVICE_RESERVE + TAKES.compute.size + 10 * layer
    assert [fit(0, ten + more).n_gpu_layers for more in (-1, 0)] == [9, 10]


def test_two_gpus_hold_what_one_cannot() -> None:
    assert (fit(0, 10 * GIB).on_gpu, fit(0, 10 * GIB, 10 * GIB).on_gpu) == (False, True)


@given(st.integers(0, 40 * GIB), st.lists(st.integers(0, 24 * GIB), max_size=3), st.integers(0, 10 * GIB))
def test_more_memory_never_turns_a_yes_into_a_no(host: int, free: list[int], more: int) -> None:
    less = fit(host, *free)
    grown = [fit(host + more, *free), fit(host, *(size + more for size in free)), fit(host, *free, more)]
    for other in grown:
        assert other.on_cpu >= less.on_cpu
        assert other.on_gpu >= less.on_gpu
        assert other.mixed >= less.mixed
        assert other.n_gpu_layers >= less.n_gpu_layers
