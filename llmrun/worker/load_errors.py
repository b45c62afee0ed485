"""What llama.cpp complained of while a model or a context was made, as an error that says what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmrun.engine.refusal import parse_refusal
from llmrun.errors import EngineError, GGUFError, InsufficientMemoryError, LLMRunError
from llmrun.settings import RunSettings
from llmrun.worker.devices import devices


def load_error(name: str, complaints: Sequence[str]) -> LLMRunError:
    """Return the error for a model that could not be loaded."""
    text = "\n".join(complaints)
    reasons = re.findall(r"error loading model(?: \w+)*: (.+)", text)
    # llama.cpp wraps one reason in the next: the last words of the last line are the cause
    reason = (
        re.sub(r"^error loading model \w+: ", "", reasons[-1]) if reasons else (complaints or ["no reason given"])[-1]
    )
    if (refusal := parse_refusal(complaints, devices().by_buffer_type())) is not None:
        return InsufficientMemoryError(
            f"{name} could not be loaded: {reason}",
            "close other programs, try fewer --gpu-layers, or a smaller file",
            refusal,
        )
    if architecture := re.search(r"unknown model architecture: '(.*)'", text):
        return GGUFError(
            f"{name} has the architecture {architecture[1]!r}, which the installed engine does not know",
            "a newer llmrun may know it; `llmrun chat guide` always works",
        )
    return GGUFError(f"{name} could not be loaded: {reason}", "the file may be incomplete or damaged: fetch it again")


def context_error(settings: RunSettings, n_ctx: int, n_ctx_train: int, complaints: Sequence[str]) -> LLMRunError:
    """Return the error for a context that could not be made."""
    reason = complaints[-1] if complaints else "no reason given"
    kv = settings.type_k if settings.type_k == settings.type_v else f"{settings.type_k}/{settings.type_v}"
    message = f"no context of {n_ctx:,} tokens with KV type {kv} could be made: {reason}"
    if (refusal := parse_refusal(complaints, devices().by_buffer_type())) is not None:
        return InsufficientMemoryError(
            message, f"try a smaller one: --ctx {min(n_ctx_train or n_ctx, max(512, n_ctx // 4))}", refusal
        )
    return EngineError(message, "try --kv-type f16, or another --ctx")
