"""reference, sampling, settings: values and the pure functions on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.reference import GUIDE_QUANTS, GuideRef, LocalRef, ModelRef, format_reference, parse_reference
from llmrun.sampling import Sampling, SamplingWish, choose_sampling
from llmrun.settings import Constraints, RunSettings, settings_for


@pytest.mark.parametrize(
    "text", ["/a/b", "./x", "../x", "~/m.gguf", "m.gguf", "M.GGUF", "C:\\m", "d:/m", ".\\m", "\\\\host\\m", "a b.gguf"]
)
def test_a_path_is_known_by_its_looks(text: str) -> None:
    assert parse_reference(text) == LocalRef(Path(text))


@pytest.mark.parametrize(
    ("text", "quant"), [("guide", "Q8_0"), ("Guide", "Q8_0"), ("guide:F16", "F16"), ("guide:q4_k_m", "Q4_K_M")]
)
def test_guide_can_be_had_in_each_quantization(text: str, quant: str) -> None:
    assert parse_reference(text) == GuideRef(quant)


@pytest.mark.parametrize(
    "text", ["", " ", "qwen3:8b", "owner/repo", "guide:", "guide:Q3", "guidee", "-", "gguf", "model"]
)
def test_anything_else_is_refused_with_what_to_type(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert "llmrun chat" in (caught.value.hint or "") or caught.value.hint == "did you mean guide?"


@pytest.mark.parametrize("text", ["https://huggingface.co/a/b.gguf", "hf.co/a/b:Q4_K_M", "huggingface.co/a/b"])
def test_an_address_is_told_what_to_do_with(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be fetched yet"):
        parse_reference(text)


def test_a_question_in_the_models_place_is_put_right() -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference("what is vram?")
    assert caught.value.hint == 'the model comes first: `llmrun run guide "what is vram?"`'


REFERENCES = st.one_of(
    st.sampled_from(GUIDE_QUANTS).map(GuideRef),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map(
        lambda t: LocalRef(Path(t))
    ),
)


@given(REFERENCES)
def test_a_reference_parses_back_to_itself(reference: ModelRef) -> None:
    assert parse_reference(format_reference(reference)) == reference


def test_the_user_wins_over_the_model_and_the_model_over_our_defaults() -> None:
    recommended = {"general.sampling.temp": 0.3, "general.sampling.top_k": 20.0}
    assert choose_sampling(SamplingWish(temperature=0.0, min_p=0.1), recommended) == (
        Sampling(temperature=0.0, top_k=20, top_p=0.95, min_p=0.1, repeat_penalty=1.0, seed=None),
        {
            "temperature": "user",
            "top_k": "model",
            "top_p": "default",
            "min_p": "user",
            "repeat_penalty": "default",
            "seed": "default",
        },
    )


@given(st.builds(SamplingWish, temperature=st.floats(0, 5), top_k=st.integers(0, 999), seed=st.integers(0, 2**32)))
def test_what_the_user_said_is_never_changed(wish: SamplingWish) -> None:
    sampling, _ = choose_sampling(wish, {"general.sampling.temp": 0.7})
    assert (sampling.temperature, sampling.top_k, sampling.seed) == (wish.temperature, wish.top_k, wish.seed)


def test_settings_carry_what_the_user_fixed() -> None:
    settings = settings_for(Constraints(n_ctx=5000, n_gpu_layers=3, type_kv="q8_0", n_threads=7), n_threads=2)
    assert settings == RunSettings(
        n_ctx=5000, n_gpu_layers=3, type_k="q8_0", type_v="q8_0", n_threads=7, n_threads_batch=7
    )


def test_without_a_wish_the_threads_are_those_of_the_machine() -> None:
    assert settings_for(Constraints(), n_threads=5) == RunSettings(n_threads=5, n_threads_batch=5)
