"""The options about how a model answers, for every command that lets one answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from llmrun.sampling import MAX_SEED, RANGES, SamplingWish
from llmrun.thinking import WISHES

_ANSWERING = "How it answers"


def _within(name: str) -> Callable[[float | None], float | None]:
    """A check against the range of a sampling setting; click's own lets "inf" and "nan" through."""
    low, high = RANGES[name]

    def check(value: float | None) -> float | None:
        if value is not None and not low <= value <= high:
            raise typer.BadParameter(f"{value} is not between {low:g} and {high:g}")
        return value

    return check


def _one_of(words: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """A check for a word of a few; which of them a model knows is known later."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in words:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(words)}")
        return value

    return check


@dataclass(frozen=True, slots=True)
class Answering:
    """What the command line said about answers."""

    temp: Annotated[
        float | None,
        typer.Option(
            "--temp",
            callback=_within("temperature"),
            metavar="X",
            help="Temperature; 0 always takes the likeliest token.",
            rich_help_panel=_ANSWERING,
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            min=0,
            metavar="N",
            help="Draw from the N likeliest tokens; 0 is off.",
            rich_help_panel=_ANSWERING,
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p",
            callback=_within("top_p"),
            metavar="X",
            help="Draw from tokens that make up X; 1 is off.",
            rich_help_panel=_ANSWERING,
        ),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(
            "--min-p",
            callback=_within("min_p"),
            metavar="X",
            help="Drop tokens under X of the likeliest; 0 is off.",
            rich_help_panel=_ANSWERING,
        ),
    ] = None
    repeat_penalty: Annotated[
        float | None,
        typer.Option(
            "--repeat-penalty",
            callback=_within("repeat_penalty"),
            metavar="X",
            help="Make repetition less likely; 1 is off.",
            rich_help_panel=_ANSWERING,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, max=MAX_SEED, metavar="N", help="Make random draws repeatable.", rich_help_panel=_ANSWERING
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", "-n", min=1, metavar="N", help="End an answer after N tokens.", rich_help_panel=_ANSWERING
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop",
            metavar="TEXT",
            help="End an answer before TEXT; can be given many times.",
            show_default=False,
            rich_help_panel=_ANSWERING,
        ),
    ] = None
    system: Annotated[
        str | None,
        typer.Option(
            "--system", metavar="TEXT", help="System message: who the model is to be.", rich_help_panel=_ANSWERING
        ),
    ] = None

    schema: Annotated[
        str | None,
        typer.Option(
            "--schema",
            metavar="FILE",
            help="Answer with JSON that satisfies this JSON schema, a file or {...}.",
            show_default=False,
            rich_help_panel=_ANSWERING,
        ),
    ] = None
    think: Annotated[
        str | None,
        typer.Option(
            "--think",
            callback=_one_of(WISHES),
            metavar="WHAT",
            help="on, off, low, medium or high, as the model knows it. (default: off where it would take long)",
            show_default=False,
            rich_help_panel=_ANSWERING,
        ),
    ] = None
    grammar: Annotated[
        Path | None,
        typer.Option(
            "--grammar",
            metavar="FILE",
            help="Answer as this grammar in GBNF allows.",
            show_default=False,
            rich_help_panel=_ANSWERING,
        ),
    ] = None

    def sampling(self) -> SamplingWish:
        """Return how tokens are to be drawn."""
        return SamplingWish(self.temp, self.top_k, self.top_p, self.min_p, self.repeat_penalty, self.seed)
