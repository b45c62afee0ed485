"""The command `estimate`, with what is free on this machine handed in."""

from __future__ import annotations

from llmrun import pipeline
from llmrun.cli.estimating import EstimateWish, check_wish, estimate_json, estimate_text
from llmrun.console import Console


def run_estimate(wish: EstimateWish, *, as_json: bool) -> None:
    """Show what a parameter count means; raises UsageError for what makes no sense."""
    check_wish(wish)  # before an engine is started for its devices
    free = pipeline.free_memory()
    if as_json:
        Console().data(estimate_json(wish, free))
    else:
        Console().show(estimate_text(wish, free).rstrip("\n"))
