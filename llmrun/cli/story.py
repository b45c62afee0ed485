"""What is told while a model comes: where it is looked for, the machine, the plan, and how far loading is.

The lines are made from values that planning has found anyway: telling the story costs no time.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from llmrun.cli.idle import tell_idle_gpu
from llmrun.cli.lender_text import sending_lines
from llmrun.cli.machine_text import machine_line
from llmrun.cli.plan_text import placement, speed_line
from llmrun.cli.planning import loss_notes
from llmrun.console import Console, one_line
from llmrun.pipeline import Planned
from llmrun.planning.plan import Plan
from llmrun.planning.pools import Pool
from llmrun.planning.quality import loss_class
from llmrun.settings import MTP, Constraints
from llmrun.units import format_bytes, format_count
from llmrun.variant import RemoteFile, Variant

LEAVING = "/help shows the commands, Ctrl-D leaves"
_NAME = 9  # columns of a line's name
_WIDEST = 80  # columns; longer lines are harder to read, however wide the terminal


def story_lines(model: str, planned: Planned, width: int = _WIDEST) -> list[str]:
    """Return the machine in a line and the plan in three, where they fit into `width`; model: what was typed."""
    rows = [
        ("machine", machine_line(planned.site)),
        ("model", _model_line(model, planned)),
        ("draft", _draft_line(planned.plan)),
        ("runs", _runs_line(planned.plan)),
        ("speed", speed_line(planned.plan)),
    ]
    return [line for name, text in rows if text for line in _row(name, text, width)]


def _model_line(model: str, planned: Planned) -> str:
    plan, summary = planned.plan, planned.summary
    name = summary.name or model.rpartition("/")[2]
    there = "here" if planned.variant.is_here else "to be fetched"
    return (
        f"{one_line(name)}: {format_count(summary.n_params)} parameters, {one_line(plan.quant)} "
        f"({loss_class(plan.loss).name}), {format_bytes(planned.variant.size)} {there}"
    )


def _draft_line(plan: Plan) -> str:
    draft = plan.draft
    if draft is None:
        return ""
    if draft.asked == MTP:
        return f"its own {draft.name}, {format_bytes(draft.size)}, guess for it"
    return f"{one_line(draft.name)}, {format_bytes(draft.size)}, guesses for it"


def _runs_line(plan: Plan) -> str:
    pools = plan.forecast.pools
    taken = ", ".join(_taken(pool) if len(pools) == 1 else f"{_taken(pool)} {_place(pool)}" for pool in pools)
    return f"{placement(plan)}, context {plan.forecast.n_ctx_each:,}; takes {taken}"


def _taken(pool: Pool) -> str:
    free = "" if pool.available is None else f" of {format_bytes(pool.available)} free"
    return f"{format_bytes(pool.needed)}{free}"


def _place(pool: Pool) -> str:
    return "RAM" if pool.id == "host" else f"on {pool.id}"


def _row(name: str, text: str, width: int) -> list[str]:
    head = f"{name:<{_NAME}}"
    wide = min(width, _WIDEST) - 1  # some terminals begin a new line after the last column
    return textwrap.wrap(text, max(wide, 2 * _NAME), initial_indent=head, subsequent_indent=" " * _NAME)


def source_line(model: str, variant: Variant) -> str | None:
    """Return which repository a short name stands for; None for a model that is here, or whose name says it."""
    origin = variant.files[0].origin
    if not isinstance(origin, RemoteFile) or origin.repo_id.lower() in model.lower():
        return None
    return f"{model} is {origin.repo_id} on the Hub"


class Story:
    """Tells it, on stderr. whole: also of a model that is here, of which a short wait needs no explanation."""

    def __init__(self, console: Console, model: str, constraints: Constraints, *, whole: bool) -> None:
        self._console, self._model, self._constraints = console, model, constraints
        self._whole = whole
        self._looks = True  # for a GPU that lies idle, once

    def begin(self) -> None:
        """Say what is being looked for, until there is more to say."""
        if self._whole:
            self._console.status(f"looking for {self._model}")

    def planned(self, planned: Planned) -> None:
        """Tell the plan, and what of it may not be what was wanted."""
        console, plan = self._console, planned.plan
        if (self._whole or console.verbose or not planned.variant.is_here) and not console.quiet:
            if (source := source_line(self._model, planned.variant)) is not None:
                console.say(source)
            for line in story_lines(self._model, planned, shutil.get_terminal_size().columns):
                console.say(line)
        for note in plan_notes(plan, self._constraints):
            console.say(f"note: {note}")
        for line in sending_lines(plan.forecast) if not console.quiet else ():
            console.say(line)
        if self._looks and not console.quiet:
            tell_idle_gpu(planned.site, self._constraints, console)
        self._looks = False
        for reason in plan.reasons:
            console.log(f"plan: {reason.setting} {reason.value}: {reason.note}")
        self._whole = False  # a model that is started again is known

    def loading(self, part: float) -> None:
        """Show how far it is."""
        self._console.status(f"loading {self._model}: {part:.0%}")


def plan_notes(plan: Plan, constraints: Constraints) -> Iterator[str]:
    """Yield what of a plan may not be what was wanted."""
    if constraints.n_gpu_layers and plan.where == "host":
        yield f"--gpu-layers {constraints.n_gpu_layers} has no effect: the engine sees no GPU"
    yield from loss_notes(plan)
    if plan.from_disk:
        yield "the model is larger than the memory: it is read from disk for every token"
