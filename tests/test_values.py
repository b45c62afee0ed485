"""reference, sampling, settings: values and the pure functions on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.reference import GUIDE_QUANTS, GuideRef, LocalRef, ModelRef, format_reference, parse_reference
from llmrun.sampling import Sampling, SamplingWish, choose_sampling


@pytest.mark.parametrize(
    "text", ["/a/b", "./x", "../x", "~/m.gguf", "m.gguf", "M.GGUF", "C:\\m", "d:/m", ".\\m", "\\\\host\\m", "a b.gguf"]
)
def test_a_path_is_known_by_its_looks(text: str) -> None:
    assert parse_reference(text) == LocalRef(Path(text))


@pytest.mark.parametrize(
    ("text", "quant"), [("guide", None), ("Guide", None), ("guide:F16", "F16"), ("guide:q4_k_m", "Q4_K_M")]
)
def test_guide_can_be_had_in_each_quantization_or_any(text: str, quant: str | None) -> None:
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
    st.sampled_from((None, *GUIDE_QUANTS)).map(GuideRef),
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
