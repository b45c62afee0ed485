"""The figures of an answer: as numbers for programs, as a line for people."""

from __future__ import annotations

from llmrun.engine.protocol import FinishReason, Usage
from llmrun.units import format_seconds


def usage_figures(usage: Usage) -> dict[str, int | float | None]:
    """Return tokens, seconds and tokens a second of reading and writing; None where nothing was measured.

    The prefill speed counts only tokens that were really read, not the cached ones.
    """
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "thought_tokens": usage.thought_tokens,
        "drafted_tokens": usage.drafted_tokens,
        "accepted_tokens": usage.accepted_tokens,
        "prefill_seconds": round(usage.prompt_seconds, 6),
        "decode_seconds": round(usage.completion_seconds, 6),
        "prefill_tokens_per_second": _rate(usage.read_tokens, usage.prompt_seconds),
        "decode_tokens_per_second": _rate(usage.completion_tokens, usage.completion_seconds),
        "seed": usage.seed,
    }


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 2) if tokens and seconds > 0 else None


def usage_lines(usage: Usage) -> list[str]:
    """Return the figures as lines to read."""
    figures = usage_figures(usage)
    prefill, decode = figures["prefill_tokens_per_second"], figures["decode_tokens_per_second"]
    return [
        f"prompt   {usage.prompt_tokens:,} tokens: {usage.cached_tokens:,} cached, {usage.read_tokens:,} read in "
        f"{format_seconds(usage.prompt_seconds)}" + (f" ({prefill:,.0f} tok/s)" if prefill else ""),
        f"answer   {usage.completion_tokens:,} tokens"
        + (f", {usage.thought_tokens:,} of them thoughts," if usage.thought_tokens else "")
        + f" in {format_seconds(usage.completion_seconds)}"
        + (f" ({decode:,.1f} tok/s)" if decode else "")
        + (f"; {usage.accepted_tokens:,} of {usage.drafted_tokens:,} guessed right" if usage.drafted_tokens else ""),
    ]


_ENDINGS: dict[FinishReason, str] = {
    "length": "stopped after --max-tokens",
    "context": "the context is full: the answer stops here; /clear begins anew, --ctx gives more room",
    "cancelled": "stopped",
}


def ending_note(reason: FinishReason) -> str | None:
    """Return what to tell about an answer that did not end by itself, None for one that did."""
    return _ENDINGS.get(reason)
