"""Every quantization of a model side by side, as a table of 80 columns, and what each takes as a bar."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from llmrun.cli.plan_text import BAR_KEYS, bar
from llmrun.console import one_line
from llmrun.pipeline import Shown
from llmrun.planning.plan import PlanWish, Whose
from llmrun.planning.policy import Where
from llmrun.planning.pools import Pool
from llmrun.planning.quality import loss_class
from llmrun.plots.chart import Free, reach
from llmrun.plots.machine import free_on
from llmrun.survey import Row, Survey
from llmrun.units import format_bytes, format_count

PLACES: dict[Where, str] = {"devices": "GPU", "experts": "SPLIT", "split": "SPLIT", "host": "CPU"}
_DEVICES: dict[Whose, str] = {"own": "GPU", "lent": "LENT", "both": "DEVS"}
_QUANT = 12  # columns
_BAR = 54  # likewise
_COPIED = 1.2  # times the file's size: more than embeddings that are there twice
_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20))
_COLUMNS = f"  {'quant':<{_QUANT}} {'files':>5} {'size':>6} {'bpw':>5} {'loss':<13} {'weights':>7} "
_MORE_COLUMNS = f"{'KV':>5} {'comp.':>5} {'where':>5} {'tok/s':>5}"


def show_text(model: str, shown: Shown, wish: PlanWish) -> str:
    """Return the table and a bar for every row, at most 80 columns wide.

    model: what it was asked for by; wish: whose reserve is left.
    """
    survey = shown.survey
    name, size = _unit(survey)
    rows = [_line(row, survey, size) for row in survey.rows]
    head = [*_head(model, shown), f"with a context of {survey.n_ctx:,} tokens on this machine; sizes in {name}", ""]
    notes = list(_notes(shown))
    table = [_COLUMNS + _MORE_COLUMNS, *rows, *([""] if notes else []), *notes]
    return "\n".join([*head, *table, *_bars(survey, free_on(shown.site, wish), size)])


def model_line(model: str, shown: Shown) -> str:
    """Return which model it is, in a line; model: what it was asked for by."""
    summary, repository = shown.survey.summary, shown.repository
    about = f"{format_count(summary.n_params)} parameters, {one_line(summary.architecture)}"
    name = summary.name or (repository.repo_id.rpartition("/")[2] if repository is not None else Path(model).name)
    return f"{one_line(name)}: {about}, trained on {summary.n_ctx_train or 0:,} tokens"


def _head(model: str, shown: Shown) -> Iterator[str]:
    yield model_line(model, shown)
    repository = shown.repository
    if repository is not None:
        gate = ", gated: its owner decides who may have it" if repository.gated else ""
        license_ = f", licence {one_line(repository.license)}" if repository.license else ""
        yield f"{repository.repo_id} at {repository.commit[:12]}{license_}{gate}"


def _unit(survey: Survey) -> tuple[str, int]:
    largest = max(row.variant.size for row in survey.rows)
    return next((unit for unit in _UNITS if largest >= unit[1]), _UNITS[-1])


def _line(row: Row, survey: Survey, unit: int) -> str:
    loss = loss_class(row.loss).name.removesuffix(" loss")
    taken, about = row.taken, "" if row.is_read else "≈"
    if taken is None:
        memory = f"{'?':>7} {'?':>5} {'?':>5}"
    else:
        weights = f"{about}{_number(taken.weights, unit)}"
        rest = taken.compute + taken.overhead
        memory = f"{weights:>7} {_number(taken.kv_cache, unit):>5} {_number(rest, unit):>5}"
    place = "no" if row.where is None else _DEVICES[survey.owner] if row.where == "devices" else PLACES[row.where]
    speed = "" if row.decode is None else f"{row.decode:.1f}" if row.decode < 100 else f"{row.decode:.0f}"
    return (
        f"{'>' if row.quant == survey.chosen else ' '} {_label(row.quant):<{_QUANT}} {len(row.variant.files):>5} "
        f"{_number(row.variant.size, unit):>6} {row.bpw:>5.2f} {loss:<13} {memory} {place:>5} {speed:>5}"
    ).rstrip()


def _number(size: int, unit: int) -> str:
    value = size / unit
    return f"{value:.2f}" if value < 100 else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _notes(shown: Shown) -> Iterator[str]:
    if shown.repository is not None and shown.here:
        yield f"here already: {', '.join(map(one_line, shown.here))}"
    if any(not row.is_read for row in shown.survey.rows):
        yield "≈ scaled from the header of another quantization; --exact reads every header"
    if any(row.taken is not None and row.taken.weights > _COPIED * row.variant.size for row in shown.survey.rows):
        yield "weights beyond the size: a second copy in the CPU's own layout, for speed"
    for sidecar in shown.sidecars:
        yield f"also there: {one_line(sidecar)}"
    for problem in shown.unusable:
        yield f"not usable: {one_line(problem)}"


def _bars(survey: Survey, free: Free | None, unit: int) -> Iterator[str]:
    """Draw what every row takes beside what is free, all to one scale; nothing where nobody knows what is free."""
    pools = [] if free is None else [(row, _pool(row, free)) for row in survey.rows if row.taken is not None]
    if free is None or not pools:
        return
    scale = reach((pool.needed for _, pool in pools), free.size)
    yield ""
    far = ", far to the right" if free.size > scale else ""
    yield from textwrap.wrap(f"memory of each; {free.name}{far}, reserve {format_bytes(free.reserve)}", 80)
    for row, pool in pools:
        number = _number(pool.needed, unit)
        mark = ">" if row.quant == survey.chosen else " "
        yield (
            f"{mark} {_label(row.quant):<{_QUANT}} {bar(pool, _BAR, scale):<{_BAR}} "
            f"{number if row.where is not None else f'({number})':>9}"
        )
    yield f"  {BAR_KEYS}"


def _pool(row: Row, free: Free) -> Pool:
    """Return all memory as one pool, with what a row takes of it."""
    assert row.taken is not None
    return Pool("all", "memory", None, free.size, free.reserve, row.taken)


def _label(quant: str) -> str:
    return one_line(quant if len(quant) <= _QUANT else f"{quant[: _QUANT - 1]}…")
