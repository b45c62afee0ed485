"""quant: the labels of quantizations, as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.planning.quality import LOSS, loss_by_bits, loss_of
from llmrun.quant import find_label, parse_label, why_not_loadable


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Q4_K_M", "Q4_K_M"),
        ("q4_k_m", "Q4_K_M"),
        ("Q4_K", "Q4_K"),
        ("q4km", "Q4_K_M"),
        ("Q4_KM", "Q4_K_M"),
        ("q4-k-m", "Q4_K_M"),
        ("Q3_K_XL", "Q3_K_XL"),
        ("Q6_K_XXL", "Q6_K_XXL"),
        ("Q4_K_P", "Q4_K_P"),
        ("ud-q4_k_xl", "UD-Q4_K_XL"),
        ("UD-IQ1_S", "UD-IQ1_S"),
        ("UD-TQ1_0", "UD-TQ1_0"),
        ("IQ4_NL_XL", "IQ4_NL_XL"),
        ("iq3_xxs", "IQ3_XXS"),
        ("Q5_1", "Q5_1"),
        ("Q4_0_4_8", "Q4_0_4_8"),
        ("Q1_0", "Q1_0"),
        ("q8", "Q8_0"),
        ("q6", "Q6_K"),
        ("q4", "Q4"),
        ("fp16", "F16"),
        ("f32", "F32"),
        ("bf16", "BF16"),
        ("mxfp4", "MXFP4"),
        ("mxfp4-moe", "MXFP4_MOE"),
        ("MXFP4_MOE_BF16", "MXFP4_MOE_BF16"),
        ("nvfp4", "NVFP4"),
        ("i2_s", "I2_S"),
        ("IQ4_KSS", "IQ4_KSS"),
        ("Q8_0_R8", "Q8_0_R8"),
        ("apex-i-quality", "APEX-I-Quality"),
        ("APEX-MTP-I-Balanced", "APEX-I-Balanced"),
        ("APEX-TQ-Compact", "APEX-TQ-Compact"),
        ("3.7BPW", "3.7bpw"),
    ],
)
def test_a_label_has_one_way_of_being_written(text: str, label: str) -> None:
    assert parse_label(text) == label
    assert parse_label(label) == label


@pytest.mark.parametrize("text", ["", "Q4_K_M ", "xQ4_K_M", "Q9_K", "8b", "latest", "QwQ", "Qwen3", "Q10", "V2", "F64"])
def test_other_words_are_no_labels(text: str) -> None:
    assert parse_label(text) is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Q8_0-to-Q4_0", "Q4_0"),
        ("salamandra-7b-instruct.Q4_K_M-f32", "Q4_K_M"),
        ("OpenZero-Q5_K_M-F16-Merged", "Q5_K_M"),
        ("model.f16.q6_k", "Q6_K"),
        ("model-f16-f32", "F32"),
        ("Instruct-2507-Q3_K_S-3.25bpw", "Q3_K_S"),
        ("Yi-34B-3.7bpw", "3.7bpw"),
        ("qwen1_5-0_5b-chat", None),
        ("Qwen2.5-7B-Instruct-1M", None),
        ("bge-m3", None),
    ],
)
def test_of_several_labels_the_last_tells_and_a_float_type_only_where_there_is_no_other(
    text: str, label: str | None
) -> None:
    found = find_label(text)
    assert (found and found.label) == label


@given(st.text(), st.sampled_from(["Q4_K_M", "UD-IQ2_XXS", "F16", "MXFP4_MOE"]), st.text())
def test_a_found_label_stands_where_it_is_said_to(before: str, label: str, after: str) -> None:
    text = f"{before}-{label}-{after}"
    found = find_label(text)
    assert found is not None
    assert parse_label(text[found.start : found.end]) == found.label


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("Q4_0_4_4", "llama.cpp no longer knows Q4_0_4_4"),
        ("Q4_2", "llama.cpp no longer knows Q4_2"),
        ("IQ4_KS", "only ik_llama.cpp knows IQ4_KS"),
        ("IQ2_K", "only ik_llama.cpp knows IQ2_K"),
        ("Q4_K_R4", "only ik_llama.cpp knows Q4_K_R4"),
        ("I2_S", "only bitnet.cpp knows I2_S"),
    ],
)
def test_what_llama_cpp_does_not_know_is_said(label: str, words: str) -> None:
    assert (why_not_loadable(label) or "").startswith(words)


@pytest.mark.parametrize("label", [*LOSS, "UD-Q4_K_XL", "Q1_0", "TQ2_0", "3.7bpw", "APEX-I-Mini", "Q4"])
def test_what_it_does_know_is_not_refused(label: str) -> None:
    assert why_not_loadable(label) is None


@pytest.mark.parametrize("quant", ["i1-Q4_K_M", "UD-Q4_K_M", "b-q4_k_m", "Q4_K"])
def test_a_label_costs_the_same_whatever_stands_before_it(quant: str) -> None:
    assert loss_of(quant, 4.0) == LOSS["Q4_K_M"]


@pytest.mark.parametrize("quant", ["3.7bpw", "APEX-I-Mini", "Q8_K_P", "17gb", "Q4"])
def test_labels_that_nobody_measured_are_judged_by_their_bits(quant: str) -> None:
    assert loss_of(quant, 3.7) == loss_by_bits(3.7)
