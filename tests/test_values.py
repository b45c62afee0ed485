"""sampling, settings: values and the pure functions on them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmrun.sampling import Sampling, SamplingWish, choose_sampling


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


@given(st.builds(SamplingWish, temperature=st.floats(0, 5), top_k=st.integers(0, 999), seed=st.integers(0, 2**32 - 2)))
def test_what_the_user_said_is_never_changed(wish: SamplingWish) -> None:
    sampling, _ = choose_sampling(wish, {"general.sampling.temp": 0.7})
    assert (sampling.temperature, sampling.top_k, sampling.seed) == (wish.temperature, wish.top_k, wish.seed)
