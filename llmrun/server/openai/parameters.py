"""What OpenAI's ways to ask for text have in common: how to draw, how long, where to stop. Pure.

What would change answers and is not had is refused, never passed over; what changes none is taken and left alone.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from llmrun.engine.protocol import Grammar
from llmrun.errors import UsageError
from llmrun.sampling import MAX_SEED, Penalties, SamplingWish

MAX_CHOICES = 16  # answers to one prompt
MAX_STOPS = 64
MAX_LOGPROBS = 20
MAX_BIASES = 1024
_EFFORTS = {"none": "off", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}

Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class StreamOptions(msgspec.Struct):
    """What a stream is to hold beside the text."""

    include_usage: bool | None = None


class Neutral(msgspec.Struct, kw_only=True):
    """Settings of other servers that are not had here, with the values at which they change nothing."""

    mirostat: int | None = 0
    mirostat_mode: int | None = 0
    typical_p: float | None = 1
    tfs_z: float | None = 1
    top_a: float | None = 0
    xtc_probability: float | None = 0
    dry_multiplier: float | None = 0
    dynatemp_range: float | None = 0
    top_n_sigma: float | None = -1
    min_tokens: int | None = 0
    ignore_eos: bool | None = False
    use_beam_search: bool | None = False
    length_penalty: float | None = 1
    bad_words: list[str] | None = None
    stop_token_ids: list[int] | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: Any = None


class Parameters(Neutral, kw_only=True):
    """How to answer: OpenAI's names, and after them those that local servers have beside them."""

    model: str | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    top_p: Fraction | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Fraction | None = None
    repeat_penalty: Annotated[float, msgspec.Meta(ge=0.01, le=100)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(ge=0.01, le=100)] | None = None
    grammar: str | None = None


def check_parameters(body: Parameters) -> None:
    """Raise UsageError for what is not had here, and for options of a stream where there is none."""
    for field in msgspec.structs.fields(Neutral):
        value = getattr(body, field.name)
        if value is not None and value != field.default and value != []:
            raise UsageError(f"{field.name} is not supported", "leave it out")
    if body.stream_options is not None and not body.stream:
        raise UsageError("stream_options are there and stream is not true", "set stream, or leave the options out")


def parse_sampling(body: Parameters) -> SamplingWish:
    """Return how tokens are to be drawn. A seed may be any number, as at OpenAI; -1 is none, as of llama.cpp."""
    repeat = body.repeat_penalty if body.repeat_penalty is not None else body.repetition_penalty
    seed = None if body.seed is None or body.seed == -1 else body.seed % (MAX_SEED + 1)
    top_k = None if body.top_k is None else max(0, body.top_k)
    return SamplingWish(body.temperature, top_k, body.top_p, body.min_p, repeat, seed)


def parse_penalties(body: Parameters) -> Penalties:
    """Return what is taken off logits; raises UsageError for a token that is no number, and for a bias too large."""
    biases = body.logit_bias or {}
    if len(biases) > MAX_BIASES:
        raise UsageError(f"logit_bias has {len(biases):,} tokens: at most {MAX_BIASES:,} are taken")
    pairs = tuple((_token(name), bias) for name, bias in biases.items())
    return Penalties(body.frequency_penalty or 0.0, body.presence_penalty or 0.0, pairs)


def parse_stop(body: Parameters) -> tuple[str, ...]:
    """Return the texts that end an answer; raises UsageError for too many."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stop) > MAX_STOPS:
        raise UsageError(f"stop has {len(stop)} texts: at most {MAX_STOPS} are taken")
    return tuple(text for text in stop if text)


def parse_length(*wishes: int | None) -> int | None:
    """Return how many tokens an answer may have, by the first wish that is one; -1 is without an end."""
    wish = next((wish for wish in wishes if wish is not None), None)
    return None if wish == -1 else wish


def wants_usage(body: Parameters) -> bool:
    """Return whether a stream is to end with what it took."""
    return body.stream_options is not None and bool(body.stream_options.include_usage)


def parse_gbnf(body: Parameters) -> Grammar | None:
    """Return the grammar that was given in llama.cpp's own language."""
    return Grammar("gbnf", body.grammar) if body.grammar else None


def schema_grammar(schema: Any) -> Grammar:
    """Return what holds an answer to a JSON schema."""
    return Grammar("json_schema", as_text(schema))


def as_text(value: Any) -> str:
    """Return a value as the text of its JSON."""
    return msgspec.json.encode(value).decode()


def think_of(effort: str | None) -> str | None:
    """Return a word for effort as --think has it; raises UsageError for one that OpenAI has not."""
    if effort is not None and effort not in _EFFORTS:
        raise UsageError(f"the effort of reasoning is {effort!r}", f"it can be {', '.join(_EFFORTS)}")
    return None if effort is None else _EFFORTS[effort]


def _token(name: str) -> int:
    if not name.isascii() or not name.isdigit() or len(name) > 9:
        raise UsageError(f"logit_bias is for {name[:20]!r}: tokens are meant by their number in the vocabulary")
    return int(name)
