"""Log probabilities of the tokens of an answer, in the two shapes that OpenAI has for them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmrun.engine.protocol import Chunk, Drawn, TokenProb

_LEAST = -9999.0  # what OpenAI says of a token that cannot come; JSON has no infinity


def drawn_of(chunks: Sequence[Chunk]) -> tuple[Drawn, ...]:
    """Return the tokens of an answer; those of its thoughts are none."""
    return tuple(drawn for chunk in chunks if not chunk.thought for drawn in chunk.drawn)


def format_chat_logprobs(drawn: Sequence[Drawn]) -> dict[str, Any]:
    """Return them as chat completions have them."""
    content = [_entry(one.chosen) | {"top_logprobs": [_entry(other) for other in one.top]} for one in drawn]
    return {"content": content, "refusal": None}


def format_text_logprobs(drawn: Sequence[Drawn], offset: int) -> dict[str, Any]:
    """Return them as completions have them: the drawn token is always among the top ones.

    offset: characters of the text before the first of them.
    """
    offsets = []
    for one in drawn:
        offsets.append(offset)
        offset += len(_text(one.chosen))
    return {
        "tokens": [_text(one.chosen) for one in drawn],
        "token_logprobs": [_logprob(one.chosen) for one in drawn],
        "top_logprobs": [{_text(other): _logprob(other) for other in (*one.top, one.chosen)} for one in drawn],
        "text_offset": offsets,
    }


def _entry(token: TokenProb) -> dict[str, Any]:
    return {"token": _text(token), "logprob": _logprob(token), "bytes": list(token.piece)}


def _text(token: TokenProb) -> str:
    """Return a token as text; bytes that are none alone, as parts of an emoji, are written as OpenAI does: \\xf0."""
    return token.piece.decode("utf-8", "backslashreplace")


def _logprob(token: TokenProb) -> float:
    return max(token.logprob, _LEAST)
