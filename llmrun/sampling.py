"""How the next token is drawn, and where each setting came from: the user, the model's file, or our defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from llmrun.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of the sampler chain.

    temperature: 0 is greedy. top_k: 0 is off. top_p: 1 is off. min_p: 0 is off. repeat_penalty: 1 is off.
    seed: None draws a new one for every answer.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a value that cannot be drawn with."""
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name} is {value}, and must lie between {low} and {high}")


# What each setting may be. The largest 32-bit seed is left out: to llama.cpp it means "a random one" (llama.h).
MAX_SEED = 0xFFFFFFFE
RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 100.0),
    "seed": (0, MAX_SEED),
}


@dataclass(frozen=True, slots=True)
class Penalties:
    """What is taken off the logits of tokens before any is drawn, whatever the temperature.

    frequency: for each time that the answer has a token already; presence: once for a token that it has; 0 is off, less
    is given and not taken. logit_bias: what is added to a token's logit, by the token. As OpenAI's API has them: of the
    prompt nothing counts (repeat_penalty looks at it).
    """

    frequency: float = 0.0
    presence: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be taken off."""
        for name in ("frequency", "presence"):
            value = getattr(self, name)
            if not -MAX_PENALTY <= value <= MAX_PENALTY:
                raise UsageError(f"{name}_penalty is {value}, and must lie between -{MAX_PENALTY} and {MAX_PENALTY}")
        for token, bias in self.logit_bias:
            if token < 0 or not -MAX_BIAS <= bias <= MAX_BIAS:
                raise UsageError(
                    f"logit_bias of token {token} is {bias}, and must lie between -{MAX_BIAS} and {MAX_BIAS}"
                )


# As OpenAI's API has them (its reference, "frequency_penalty", "presence_penalty" and "logit_bias" of chat completions)
MAX_PENALTY = 2
MAX_BIAS = 100
NO_PENALTIES = Penalties()


@dataclass(frozen=True, slots=True)
class SamplingWish:
    """What the user said about sampling; None is nothing."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None


# GGUF keys by which a model recommends its own sampling (llama.cpp, src/llama-arch.cpp, LLM_KV_GENERAL_SAMPLING_*)
GGUF_KEYS: Mapping[str, str] = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repeat_penalty": "general.sampling.penalty_repeat",
}


def choose_sampling(wish: SamplingWish, recommended: Mapping[str, float]) -> tuple[Sampling, dict[str, str]]:
    """Merge the user's word, the model's recommendation and our defaults, in that order.

    `recommended` maps GGUF keys to numbers. Returns the settings and, by name, where each came from:
    "user", "model" or "default". A recommendation that makes no sense is left out: files are not to be trusted.
    """
    defaults = Sampling()
    chosen: dict[str, float | None] = {}
    origin: dict[str, str] = {}
    for field in fields(Sampling):
        name = field.name
        said, advised = getattr(wish, name), _sensible(name, recommended.get(GGUF_KEYS.get(name, "")))
        if said is not None:
            chosen[name], origin[name] = said, "user"
        elif advised is not None:
            chosen[name], origin[name] = advised, "model"
        else:
            chosen[name], origin[name] = getattr(defaults, name), "default"
    sampling = Sampling(
        temperature=float(chosen["temperature"] or 0),
        top_k=int(chosen["top_k"] or 0),
        top_p=float(chosen["top_p"] or 0),
        min_p=float(chosen["min_p"] or 0),
        repeat_penalty=float(chosen["repeat_penalty"] or 0),
        seed=None if chosen["seed"] is None else int(chosen["seed"]),
    )
    return sampling, origin


def _sensible(name: str, value: float | None) -> float | None:
    low, high = RANGES[name]
    return value if value is not None and math.isfinite(value) and low <= value <= high else None
