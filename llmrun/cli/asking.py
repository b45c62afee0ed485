"""What `run` asks: a prompt, piped text and files as one question, answered once or many times."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmrun.cli.prompting import Chosen
    from llmrun.engine.protocol import FinishReason, Usage
    from llmrun.errors import IncompleteAnswerError
    from llmrun.sampling import Sampling

_ASKING = "What is asked"
_MAX_ANSWERS = 1000


@dataclass(frozen=True, slots=True)
class Asking:
    """What the command line said about the question."""

    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            metavar="PATH",
            help="Attach a text file; can be given many times.",
            show_default=False,
            rich_help_panel=_ASKING,
        ),
    ] = None
    answers: Annotated[
        int,
        typer.Option(
            "--answers",
            min=1,
            max=_MAX_ANSWERS,
            metavar="N",
            help="Answer N times, with seeds that follow each other.",
            rich_help_panel=_ASKING,
        ),
    ] = 1


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; alike: the same with another prompt, so that it is known how other questions will begin."""

    text: str
    alike: str


def read_question(prompt: str | None, files: list[Path] | None, chosen: Chosen | None = None) -> Question:
    """Return the files in their order, what is piped in, then the prompt, with blank lines between.

    What is long and stays the same comes first: models answer better where the question follows what it is about, and
    what begins alike need not be read again. chosen: the prompt by name that all that is put into.

    Raises UsageError where there is none of all that, or a file holds no text; NotFoundError.
    """
    from llmrun.attachment import read_attachments
    from llmrun.chat.lines import clean_text
    from llmrun.errors import UsageError

    attached = [attachment.introduced() for attachment in read_attachments(files or [])]
    piped = _piped()
    beside = [part for part in (*attached, piped.rstrip("\r\n")) if part.strip()]
    parts = [*beside, prompt] if prompt and prompt.strip() else beside

    def question(parts: list[str]) -> str:
        text = "\n\n".join(parts)
        return clean_text(text if chosen is None else chosen.question(text))

    if not parts and chosen is None:
        raise UsageError("there is no prompt", 'llmrun run guide "what is a KV cache?", or pipe a text into it')
    return Question(question(parts), question([*beside, "…"]))


def _piped() -> str:
    """What is piped in; bytes that are no UTF-8 in a text are replaced, what is no text at all is refused."""
    from llmrun.chat.lines import no_text

    if sys.stdin is None or sys.stdin.isatty():
        return ""
    data = sys.stdin.buffer.read()
    if b"\0" in data:
        raise no_text()
    return data.decode("utf-8", "replace")


def seeded(sampling: Sampling, n_answers: int, last: Callable[[], Usage]) -> Iterator[Sampling]:
    """Yield how each answer is drawn: with the given seed, or one by chance, and then those that follow it.

    last: the usage of the answer before.
    """
    from llmrun.sampling import MAX_SEED

    yield sampling
    for _ in range(n_answers - 1):
        yield replace(sampling, seed=(last().seed + 1) % (MAX_SEED + 1))


def cut_off(reason: FinishReason, usage: Usage) -> IncompleteAnswerError | None:
    """Return the error for an answer that was to have a structure and ended before it had it, None for a whole one."""
    from llmrun.errors import IncompleteAnswerError

    if reason not in ("length", "context"):
        return None
    limit, hint = (
        ("--max-tokens", "give it more: a larger --max-tokens, or none")
        if reason == "length"
        else ("the context", "a larger context may help: --ctx; or ask for less")
    )
    n_tokens = usage.completion_tokens
    return IncompleteAnswerError(f"the answer is not whole: {limit} ended it after {n_tokens:,} tokens", hint)
