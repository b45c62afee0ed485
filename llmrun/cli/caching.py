"""The cache of prompts as `run` has it: what is taken back before the answer, what is kept after it, and what is said.

What is kept is the user's own text, as the model read it: only where that was asked for, and said when it is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmrun.console import Console
    from llmrun.engine.protocol import Generate, Usage
    from llmrun.pipeline import Started
    from llmrun.prompt_cache import Taken

_KEEPING = "What is kept"

EmptyCache = Annotated[
    bool,
    typer.Option(
        "--cache", help="Remove what models had read of prompts and conversations, no model; nobody is asked."
    ),
]


@dataclass(frozen=True, slots=True)
class Caching:
    """What the command line said about the cache of prompts."""

    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            envvar="LLMRUN_CACHE",
            help="Keep what the model read of a long prompt, in files of yours alone, for the next run that begins "
            "alike; `llmrun rm --cache` removes it.",
            rich_help_panel=_KEEPING,
        ),
    ] = False
    cache_size: Annotated[
        str | None,
        typer.Option(
            "--cache-size",
            metavar="SIZE",
            envvar="LLMRUN_CACHE_SIZE",
            help="How much that may take on the disk. (default: 4GiB, at most 5 % of what is free)",
            show_default=False,
            rich_help_panel=_KEEPING,
        ),
    ] = None

    def most(self) -> int | None:
        """Return the bytes that were wished for, None where none were; raises UsageError for what is no size."""
        from llmrun.units import parse_bytes

        return None if self.cache_size is None else parse_bytes(self.cache_size)


class Cached:
    """One run's use of the cache; started: None where the model is a running server's, which keeps prompts itself."""

    def __init__(self, wish: Caching, most: int | None, started: Started | None, console: Console) -> None:
        self._console = console
        self._cache = None
        if not wish.cache:
            return
        if started is None:
            console.log("cache: not used, the server keeps in memory what it read")
            return
        from llmrun.cli.starting import cache_key
        from llmrun.prompt_cache import PromptCache
        from llmrun.prompt_files import PromptFiles

        self._cache = PromptCache(started.engine, cache_key(started), PromptFiles(most=most))

    def take(self, request: Generate, alike: Generate) -> Taken | None:
        """Give the engine what it need not read of a request; None where the cache is not used. alike: see `take`."""
        if self._cache is None:
            return None
        taken = self._cache.take(request, alike, self._read)
        if taken.n_tokens:
            self._console.log(f"cache: {taken.n_tokens:,} tokens taken back in {taken.seconds:.2f} s")
        return taken

    def leave(self, usage: Usage) -> None:
        """Keep what was new of the prompt, and say so."""
        left = None if self._cache is None else self._cache.leave(usage)
        if left is None:
            return
        from llmrun.units import format_bytes

        self._console.log(f"cache: kept {left.n_tokens:,} tokens in {left.seconds:.2f} s")
        size = format_bytes(left.size)
        self._console.say(f"note: the prompt is kept, {size}, and not read again; `llmrun rm --cache` removes it")

    def _read(self, request: Generate) -> Usage:
        """Let the engine read what is to be kept before the rest, with the wait explained."""
        from llmrun.chat.answering import stream_answer

        engine = self._cache.engine if self._cache is not None else None
        assert engine is not None  # only who has a cache is called
        answered = stream_answer(engine, request, self._console, show=False)
        if answered.finish_reason == "cancelled":
            raise KeyboardInterrupt
        return answered.usage
