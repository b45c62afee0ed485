"""What people say to the library about how a model runs and answers: names, what they may be, and what they mean.

Knows the names and their ranges; must not know what is done with them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict

from llmrun.adapters import parse_loras
from llmrun.cli.wishes import check_gpu_wishes, chosen_devices, drafted
from llmrun.engine.protocol import Generate, Grammar, ModelInfo
from llmrun.errors import UsageError
from llmrun.planning.plan import PlanWish
from llmrun.planning.policy import PREFERENCES, Prefer
from llmrun.sampling import SamplingWish, choose_sampling
from llmrun.settings import KV_TYPES, MAX_DRAFT, MAX_N_CTX, MAX_THREADS, Constraints
from llmrun.thinking import WISHES, ThinkingChoice, choose_thinking
from llmrun.units import parse_bytes

Think = Literal["on", "off", "low", "medium", "high"]


class RunOptions(TypedDict, total=False):
    """How a model runs; what is left out, or None, llmrun chooses, as the command line does.

    ctx: tokens of context. gpu_layers: layers on the GPU, the output included. kv_type: "f16", "q8_0", "q4_0", ...
    threads: of the CPU. speculate: tokens that may be guessed from the conversation and verified in one step; "off" is
    none. device: "CUDA0", "CUDA0=6GiB", "rpc:HOST:PORT", several of them, or "none" for the CPU alone.
    prefer: "balanced", "quality", "speed" or "context". reserve, device_reserve: what to leave free of the RAM and of
    each device, in bytes or as "2GiB". allow_disk: run what is larger than the memory from disk. require_gpu: raise
    EngineError rather than run on the CPU alone. lora: adapters, "style.gguf" or "style.gguf:0.5". projector: the file
    that lets a model see images, or "auto" for the one that belongs to it. draft: a smaller model that guesses for this
    one, by its name or its path, "auto" for the one that comes with it, or "mtp" for the model's own layers for that.
    """

    ctx: int | None
    gpu_layers: int | None
    kv_type: str | None
    threads: int | None
    speculate: int | Literal["auto", "off"] | None
    device: str | Sequence[str] | None
    prefer: Prefer | None
    reserve: int | str | None
    device_reserve: int | str | None
    allow_disk: bool
    require_gpu: bool
    lora: str | Sequence[str] | None
    projector: str | None
    draft: str | None


class AnswerOptions(TypedDict, total=False):
    """How a model answers; what is left out, or None, is as the model's file recommends, else as llmrun usually does.

    temperature: 0 always takes the likeliest token. top_k: 0 is off; top_p, repeat_penalty: 1 is off; min_p: 0 is off.
    seed: makes draws repeatable. max_tokens: None goes on until the model ends or the context is full. stop: texts
    before which an answer ends. think: "on", "off", "low", "medium" or "high", as the model knows it; unasked, it does
    not think where that would take long. schema: a JSON schema, as text or as what json.loads makes of it; grammar:
    one in GBNF; an answer satisfies it if it ends with finish reason "stop".
    """

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repeat_penalty: float | None
    seed: int | None
    max_tokens: int | None
    stop: str | Iterable[str] | None
    think: Think | None
    schema: str | Mapping[str, Any] | None
    grammar: str | None


class LoadOptions(RunOptions, AnswerOptions, total=False):
    """What `load` takes: how the model runs, and how it answers unless a question says otherwise."""


@dataclass(frozen=True, slots=True)
class AnswerWish:
    """How answers are wished for; `sampling` has None for whatever was not said."""

    sampling: SamplingWish = field(default_factory=SamplingWish)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    think: str | None = None
    grammar: Grammar | None = None

    def changed(self, options: Mapping[str, Any]) -> AnswerWish:
        """Return the wish with what a question says otherwise; raises UsageError for a value that cannot be."""
        given = {name: value for name, value in options.items() if value is not None}
        wish = AnswerWish(
            replace(self.sampling, **{name: given[name] for name in SamplingWish.__slots__ if name in given}),
            _within("max_tokens", given.get("max_tokens", self.max_tokens), 1, MAX_N_CTX),
            _texts(given["stop"]) if "stop" in given else self.stop,
            _one_of("think", given["think"], WISHES) if "think" in given else self.think,
            _grammar(given) or self.grammar,
        )
        if wish.grammar is not None and wish.stop:
            raise UsageError("stop would cut answers that are to have a structure", "leave it out")
        choose_sampling(wish.sampling, {})  # whose values are checked where they are put together
        return wish

    def thinking(self, info: ModelInfo, speed: float | None) -> ThinkingChoice:
        """Return how a model thinks; speed: predicted tokens a second. Raises UsageError for what it cannot do."""
        return choose_thinking(self.think, info.thinking, info.name, speed)

    def request(self, info: ModelInfo, speed: float | None) -> Generate:
        """Return what is asked of a loaded model, still without messages; raises UsageError as `thinking` does."""
        return Generate(
            (),
            choose_sampling(self.sampling, info.sampling)[0],
            self.max_tokens,
            self.stop,
            grammar=self.grammar,
            variables=self.thinking(info, speed).variables,
        )


def check_names(function: str, options: Mapping[str, object], *known: type) -> None:
    """Raise TypeError, as Python does, for an option there is not, with the one that may have been meant."""
    names = {name for kind in known for name in kind.__annotations__}
    for wrong in sorted(options.keys() - names):
        close = difflib.get_close_matches(wrong, names, 1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"{function}() got an unexpected keyword argument {wrong!r}{meant}")


def constraints_of(options: RunOptions) -> Constraints:
    """Return what is fixed about how the model runs; raises UsageError for a value that cannot be."""
    kv_type = options.get("kv_type")
    device, lora = options.get("device"), options.get("lora")
    devices = chosen_devices([device] if isinstance(device, str) else device)
    found = Constraints(
        n_ctx=_within("ctx", options.get("ctx"), 1, MAX_N_CTX),
        n_gpu_layers=_within("gpu_layers", options.get("gpu_layers"), 0, MAX_N_CTX),
        type_kv=None if kv_type is None else _one_of("kv_type", kv_type.lower(), KV_TYPES),
        n_threads=_within("threads", options.get("threads"), 1, MAX_THREADS),
        n_draft_max=_draft(options.get("speculate")),
        devices=devices.names,
        device_limits=devices.limits,
        loras=parse_loras([lora] if isinstance(lora, str) else lora),
        projector=options.get("projector"),
    )
    return drafted(found, options.get("draft"))


def plan_wish_of(options: RunOptions) -> PlanWish:
    """Return what is wished of the plan; raises UsageError for a preference there is not, or no size."""
    prefer = options.get("prefer") or "balanced"
    _one_of("prefer", prefer, PREFERENCES)
    wish = PlanWish(
        prefer,
        allow_disk=options.get("allow_disk", False),
        reserve_host=_size("reserve", options.get("reserve")),
        reserve_device=_size("device_reserve", options.get("device_reserve")),
        require_gpu=options.get("require_gpu", False),
    )
    check_gpu_wishes(constraints_of(options), wish)
    return wish


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise UsageError(f"{name} is {value!r}, and must be one of {', '.join(known)}")
    return value


def _grammar(given: Mapping[str, Any]) -> Grammar | None:
    """Return what an answer must look like; raises UsageError for one that answers cannot be held to."""
    schema, grammar = given.get("schema"), given.get("grammar")
    if schema is None and grammar is None:
        return None
    if schema is not None and grammar is not None:
        raise UsageError("schema and grammar cannot be given together")
    from llmrun.structured.convert import gbnf_of
    from llmrun.structured.gbnf import check_grammar

    if grammar is not None:
        check_grammar(grammar)
        return Grammar("gbnf", grammar)
    text = schema if isinstance(schema, str) else json.dumps(schema)
    check_grammar(gbnf_of(text))
    return Grammar("json_schema", text)


def _draft(value: object) -> int | None:
    if value in ("auto", "off"):
        return None if value == "auto" else 0
    return _within("speculate", value, 1, MAX_DRAFT)


def _within(name: str, value: object, low: int, high: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}, and must be a whole number from {low:,} to {high:,}")
    return value


def _size(name: str, value: int | str | None) -> int | None:
    if isinstance(value, int) and value < 0:
        raise UsageError(f"{name} is {value:,}, and cannot be less than nothing")
    return parse_bytes(value) if isinstance(value, str) else value


def _texts(value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    found = tuple(text for text in texts if isinstance(text, str))
    if len(found) != len(texts):
        raise UsageError(f"stop is {value!r}, and must be a text or texts")
    return found
