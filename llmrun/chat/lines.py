"""Text as messages: a line each, or many lines between triple quotes; and the messages that come through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from llmrun.errors import UsageError

QUOTES = '"""'


def join_quoted(lines: Iterable[str]) -> Iterator[str]:
    """Turn lines into messages: one each, but what stands between triple quotes is one; blank ones are left out.

    Quotes that are never closed end with the input.
    """
    rows: list[str] | None = None
    for line in lines:
        if rows is None and not line.lstrip().startswith(QUOTES):
            if line.strip():
                yield line.strip("\r\n")
            continue
        rows = [] if rows is None else rows
        rows.append(line.rstrip("\r\n"))
        if is_complete("\n".join(rows)):
            yield unquote("\n".join(rows))
            rows = None
    if rows:
        yield unquote("\n".join(rows))


def is_complete(text: str) -> bool:
    """Tell whether a text that begins with triple quotes also ends them; any other text is complete."""
    stripped = text.strip()
    return not stripped.startswith(QUOTES) or (len(stripped) >= 2 * len(QUOTES) and stripped.endswith(QUOTES))


def unquote(text: str) -> str:
    """Return what stands between triple quotes; any other text as it is."""
    stripped = text.strip()
    if not stripped.startswith(QUOTES):
        return text
    return stripped.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")


def clean_text(text: str) -> str:
    """Return a text from outside as text: bytes that were none (they arrive as lone surrogates) become "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_piped() -> Iterator[str]:
    """Yield the messages of standard input, which is no terminal; raises UsageError at a line that is no text."""
    if sys.stdin is None:
        return
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    yield from join_quoted(_texts(sys.stdin))


def no_text() -> UsageError:
    """Return the error for a pipe that brings something else: bytes of which one is zero."""
    return UsageError("what is piped in is no text", "pipe text, or name the file with --image if it is one")


def _texts(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise no_text()
        yield line
