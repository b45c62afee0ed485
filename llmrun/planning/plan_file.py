"""A plan as a file: what is needed to run it again exactly so, and to see that it is the same model. Pure.

The settings stand in it by llama.cpp's names, so that people can read and change them.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from llmrun.errors import UsageError
from llmrun.planning.plan import Plan
from llmrun.settings import (
    AFFINITIES,
    KV_TYPES,
    LOAD_MODES,
    MAX_DRAFT,
    MAX_N_CTX,
    MAX_SEQUENCES,
    MAX_THREADS,
    Lora,
    RunSettings,
)

FORMAT = 1
_HINT = "`llmrun plan MODEL --save FILE` writes one"


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A variant of a model by its label and its bytes, and how it is run."""

    quant: str
    size: int
    settings: RunSettings


def format_plan(plan: Plan, size: int, model: str) -> str:
    """Write a plan; size: bytes of the variant's files. model: what was asked for, for people."""
    reasons = {reason.setting: f"{reason.cause}: {reason.note}" for reason in plan.reasons}
    content = {
        "format": FORMAT,
        "model": model,
        "quant": plan.quant,
        "size": size,
        "settings": asdict(plan.settings),
        "reasons": reasons,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def parse_plan(text: str) -> SavedPlan:
    """Read what format_plan wrote; raises UsageError for what is no plan, or has a setting that cannot be."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UsageError("the plan is no JSON", _HINT) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"the plan is not of format {FORMAT}", _HINT)
    quant, size, settings = content.get("quant"), content.get("size"), content.get("settings")
    if not isinstance(quant, str) or type(size) is not int or not isinstance(settings, dict):
        raise UsageError("the plan lacks its quant, size or settings", _HINT)
    return SavedPlan(quant, size, _settings(settings))


def _settings(values: dict[str, Any]) -> RunSettings:
    known = {field.name for field in fields(RunSettings)}
    if unknown := sorted(set(values) - known):
        raise UsageError(
            f"the plan has a setting {unknown[0]!r}, which there is not", f"there are {', '.join(sorted(known))}"
        )
    made = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    made |= {"loras": tuple(map(_lora, made["loras"]))} if isinstance(made.get("loras"), tuple) else {}
    for name, value in made.items():
        if not _is_possible(name, value):
            raise UsageError(f"the plan has {value!r} for {name}, which cannot be")
    settings = RunSettings(**made)  # type: ignore[arg-type]
    if settings.n_ctx is None or settings.devices is None or settings.n_gpu_layers is None:
        raise UsageError("the plan lacks its n_ctx, devices or n_gpu_layers", _HINT)
    if settings.draft is not None and not settings.n_draft_max:
        raise UsageError("the plan has a draft, and an n_draft_max of 0: it would guess nothing")
    if settings.tensor_split is not None and len(settings.tensor_split) != len(settings.devices):
        raise UsageError(f"the plan splits layers in {len(settings.tensor_split)}, for {len(settings.devices)} devices")
    return settings


def _lora(value: Any) -> Any:
    """Return an adapter as a setting has it, what is none as it is."""
    if not isinstance(value, dict) or set(value) != {"path", "scale"}:
        return value
    path, scale = value["path"], value["scale"]
    is_one = isinstance(path, str) and path and type(scale) in (int, float) and math.isfinite(scale) and scale != 0
    return Lora(path, float(scale)) if is_one else value


_RANGES = {
    "n_ctx": (1, MAX_N_CTX * MAX_SEQUENCES),
    "n_seq_max": (1, MAX_SEQUENCES),
    "n_outputs_max": (1, MAX_SEQUENCES),
    "n_batch": (1, 1 << 20),
    "n_ubatch": (1, 1 << 20),
    "n_gpu_layers": (0, 1 << 20),
    "cpu_experts": (0, 1 << 20),
    "n_draft_max": (0, MAX_DRAFT),
    "n_threads": (1, MAX_THREADS),
    "n_threads_batch": (1, MAX_THREADS),
}
_WORDS = {"type_k": KV_TYPES, "type_v": KV_TYPES, "load_mode": LOAD_MODES, "affinity": AFFINITIES}
_FLAGS = frozenset({"kv_unified", "swa_full", "offload_kqv", "repack"})
_OPTIONAL = frozenset({"flash_attn", "tensor_split", "projector", "draft"})  # a plan leaves nothing else open


def _is_possible(name: str, value: Any) -> bool:
    if value is None:
        return name in _OPTIONAL
    if name in _RANGES:
        low, high = _RANGES[name]
        return type(value) is int and low <= value <= high
    if name in _FLAGS or name == "flash_attn":
        return isinstance(value, bool)
    if name in ("projector", "draft"):
        return isinstance(value, str) and bool(value)
    if name in _WORDS:
        return value in _WORDS[name]
    if not isinstance(value, tuple):
        return False
    if name == "loras":
        return all(isinstance(part, Lora) for part in value)
    if name == "devices":
        return all(isinstance(part, str) for part in value)
    return bool(value) and all(isinstance(part, int | float) and part >= 0 for part in value) and sum(value) > 0
