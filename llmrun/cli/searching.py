"""`llmrun search`: what the Hub has, as lines and as JSON."""

from __future__ import annotations

from dataclasses import asdict

from llmrun import pipeline
from llmrun.cli.fetching import listener_of
from llmrun.console import Console, one_line
from llmrun.errors import NotFoundError, UsageError
from llmrun.hub.repository import Hit
from llmrun.units import format_bytes, format_count

_NAME = 52  # columns


def run_search(words: str, limit: int, *, as_json: bool, quiet: bool) -> None:
    """Show the GGUF repositories the Hub finds."""
    console = Console(quiet=quiet)
    if not words.strip():
        raise UsageError("there is nothing to search for", "llmrun search qwen3 8b")
    hits = pipeline.search(words, limit, listener_of(console))
    if as_json:
        console.data({"words": words, "repositories": [asdict(hit) for hit in hits]})
        return
    if not hits:
        raise NotFoundError(f"the Hub finds no GGUF repository for {words!r}", "fewer or other words find more")
    console.show(search_text(hits))
    console.say(f"`llmrun show {hits[0].repo_id}` shows what is in one, and what fits here")


def search_text(hits: tuple[Hit, ...]) -> str:
    """Return a table of at most 80 columns, where the names are not longer than theirs."""
    width = min(_NAME, max(len(hit.repo_id) for hit in hits))
    head = f"{'repository':<{width}} {'weights':>7} {'one file':>9} {'downloads':>9}"
    return "\n".join([head, *(_line(hit, width) for hit in hits)])


def _line(hit: Hit, width: int) -> str:
    weights = "" if hit.n_params is None else format_count(hit.n_params)
    size = "" if hit.size is None else format_bytes(hit.size)
    gated = " gated" if hit.gated else ""
    return f"{one_line(hit.repo_id):<{width}} {weights:>7} {size:>9} {format_count(hit.downloads):>9}{gated}".rstrip()
