"""`llmrun pull`: a model fetched, and nothing of it loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmrun import pipeline
from llmrun.cli.fetching import FetchScreen, listener_of
from llmrun.console import Console, one_line
from llmrun.planning.plan import Plan, PlanWish
from llmrun.reference import parse_reference
from llmrun.settings import Constraints
from llmrun.units import format_bytes


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Everything the command line said."""

    model: str
    constraints: Constraints
    wish: PlanWish
    local_dir: Path | None
    offline: bool
    json: bool
    quiet: bool


def run_pull(request: PullRequest) -> None:
    """Fetch a model, and say where it is."""
    console = Console(quiet=request.quiet)
    reference = parse_reference(request.model, pipeline.hub_address())
    with FetchScreen(console).shown() as screen:
        listener = replace(listener_of(console), fetch=screen, planned=lambda found: console.say(_planned(found.plan)))
        pulled = pipeline.pull(
            reference,
            request.constraints,
            request.wish,
            listener,
            local_dir=request.local_dir,
            offline=request.offline,
        )
    if request.json:
        console.data(
            {
                "quant": pulled.variant.quant,
                "size": pulled.variant.size,
                "paths": [str(path) for path in pulled.paths],
                "fits": pulled.plan is not None,
            }
        )
        return
    console.say(f"{pulled.variant.quant}, {format_bytes(pulled.variant.size)}, is here:")
    for path in pulled.paths:
        console.show(one_line(str(path)))


def _planned(plan: Plan) -> str:
    return f"{plan.quant}: {plan.why}"
