"""What fills the context, as lines to read: a bar, and the tokens of each part. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from llmrun.engine.protocol import TokenCounts
from llmrun.message import Message

NEARLY_FULL = 0.8  # of the context, from where on people are told

_MAX_BAR = 60  # columns
# One sign for each part, so that the bar can be read without colours
_SIGNS = {"system message": "#", "questions": "=", "answers": "-", "template": ":", "free": "."}
_ROLES = {"system": "system message", "user": "questions", "assistant": "answers"}


def is_nearly_full(used: int, n_ctx: int) -> bool:
    """Tell whether so many tokens are to be told of as nearly all."""
    return used >= NEARLY_FULL * n_ctx


def context_lines(messages: Sequence[Message], counts: TokenCounts, n_ctx: int, width: int) -> list[str]:
    """Return a bar of what fills a context of n_ctx tokens, and a line for each part; none is wider than `width`."""
    parts = _parts(messages, counts, n_ctx)
    title = f"context {counts.total:,} of {n_ctx:,} tokens ({counts.total / n_ctx:.0%})"
    bar = _bar(parts, min(_MAX_BAR, width - 3), n_ctx)
    digits = max(len(f"{tokens:,}") for tokens in parts.values())
    rows = [
        f"{_SIGNS[name]} {name:<14} {tokens:>{digits},}" for name, tokens in parts.items() if tokens or name == "free"
    ]
    return [title, bar, *(row[: max(1, width)] for row in rows)]


def _parts(messages: Sequence[Message], counts: TokenCounts, n_ctx: int) -> dict[str, int]:
    """Tokens by part, in the order of the bar. What the template adds is what no message says."""
    parts = dict.fromkeys(_SIGNS, 0)
    for message, tokens in zip(messages, counts.messages, strict=True):
        parts[_ROLES.get(message.role, "template")] += tokens
    parts["template"] += max(0, counts.total - sum(counts.messages))
    parts["free"] = max(0, n_ctx - counts.total)
    return parts


def _bar(parts: dict[str, int], width: int, n_ctx: int) -> str:
    """A bar of `width` columns; a part that is there has one at least, as far as there is room."""
    columns = {name: max(int(tokens > 0), round(width * tokens / n_ctx)) for name, tokens in parts.items()}
    bar = "".join(_SIGNS[name] * count for name, count in columns.items() if name != "free")[:width]
    return f"[{bar:{_SIGNS['free']}<{width}}]"
