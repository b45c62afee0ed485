"""The line below the prompt: model, tokens of the context, speed. Pure."""

from __future__ import annotations

from llmrun.engine.protocol import Usage

_SHORTEST_NAME = 8  # characters; a name is not cut further


def bottom_line(name: str, usage: Usage | None, n_ctx: int, width: int) -> str:
    """Return the line, in at most `width` columns: the speed goes first where there is no room, then the model's name.

    usage: of the last answer, None before the first.
    """
    used = min(usage.prompt_tokens + usage.completion_tokens, n_ctx) if usage else 0  # the last token is not read
    fill = f"{used:,} of {n_ctx:,} tokens ({used / n_ctx:.0%})" if used else f"context {n_ctx:,} tokens"
    parts = [fill]
    if usage and usage.completion_tokens and usage.completion_seconds > 0:
        parts.append(f"{usage.completion_tokens / usage.completion_seconds:,.1f} tok/s")
    while len(parts) > 1 and _length(parts) + min(len(name), _SHORTEST_NAME) > width:
        parts.pop()
    room = max(0, width - _length(parts))
    shown = name if len(name) <= room else f"{name[: max(0, room - 1)]}…"
    return " · ".join([shown, *parts])[:width]


def _length(parts: list[str]) -> int:
    return sum(len(part) + 3 for part in parts)
