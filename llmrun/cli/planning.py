"""`llmrun plan`: what a model would take of this machine, as bars and a table, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llmrun import pipeline
from llmrun.console import Console, one_line
from llmrun.errors import InsufficientMemoryError, UsageError
from llmrun.gguf.summary import ModelSummary
from llmrun.planning.forecast import Cell, Forecast, Source, what_fits
from llmrun.planning.pools import Pool
from llmrun.reference import parse_reference
from llmrun.settings import Constraints
from llmrun.units import format_bytes, format_count

_BAR = 76  # characters; two columns of indent and two to spare in 80
_PARTS = (("weights", "█"), ("kv_cache", "▓"), ("compute", "▒"), ("overhead", "░"))
_SHARED, _FREE, _RESERVE, _LACKING = "+", "·", "|", "!"
_WORDS = {"weights": "weights", "kv_cache": "KV cache", "compute": "compute", "overhead": "overhead"}


@dataclass(frozen=True, slots=True)
class PlanWish:
    """Everything the command line said; source is whom to ask, None for the best there is."""

    model: str
    constraints: Constraints
    source: Source | None
    json: bool
    quiet: bool


def chosen_source(*, exact: bool, fast: bool) -> Source | None:
    """Return whom to ask; raises UsageError for both at once."""
    if exact and fast:
        raise UsageError("--exact and --fast exclude each other", "give neither: the engine is asked where it can be")
    return "engine" if exact else "arithmetic" if fast else None


def chosen_devices(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the devices wished for; "none" is the CPU alone. Raises UsageError for none and some."""
    if not names:
        return None
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"the device {twice[0]} is named twice", "name each once; --device none is the CPU")
    if "none" in names and len(names) > 1:
        raise UsageError("--device none cannot be given with another --device")
    return () if "none" in names else tuple(names)


def run_plan(wish: PlanWish) -> None:
    """Show what a model would take; raises InsufficientMemoryError, after showing it, where it does not fit."""
    console = Console(quiet=wish.quiet)
    summary, forecast = pipeline.forecast(parse_reference(wish.model), wish.constraints, wish.source)
    if wish.json:
        console.data(forecast_figures(summary, forecast))
    else:
        console.show(forecast_text(wish.model, summary, forecast))
        for note in _notes(wish, forecast):
            console.say(f"note: {note}")
    if not forecast.fits:
        raise _does_not_fit(wish.model, forecast)


def _notes(wish: PlanWish, forecast: Forecast) -> Iterator[str]:
    """What of the wishes goes without effect, or has one that may not be wanted."""
    if wish.source is None and forecast.source == "arithmetic":
        yield f"the engine could not be asked, so this is arithmetic: {one_line(forecast.engine_trouble or '')}"
    if wish.constraints.n_gpu_layers and len(forecast.pools) == 1:
        yield "--gpu-layers has no effect: the engine sees no GPU"
    if forecast.n_ctx_each > forecast.n_ctx_train:
        yield (
            f"a context of {forecast.n_ctx_each:,} tokens is more than the {forecast.n_ctx_train:,} the model was "
            "trained on"
        )


def forecast_figures(summary: ModelSummary, forecast: Forecast) -> dict[str, object]:
    """Return everything as plain values; sizes are bytes."""
    return {
        "model": {"name": summary.name, "architecture": summary.architecture, "n_params": summary.n_params},
        "settings": asdict(forecast.settings),
        "n_ctx": forecast.n_ctx_each,
        "n_ctx_allocated": forecast.n_ctx,
        "n_layer": forecast.n_layer,
        "n_offloaded": forecast.n_offloaded,
        "source": forecast.source,
        "engine_trouble": forecast.engine_trouble,
        "total": forecast.total,
        "arithmetic_total": forecast.arithmetic,
        "fits": forecast.fits,
        "pools": [
            {**asdict(pool), "used": {**asdict(pool.used), "total": pool.used.total}, "headroom": pool.headroom}
            for pool in forecast.pools
        ],
        "contexts": [
            {"n_ctx": row.n_ctx, **{kv_type: cell and asdict(cell) for kv_type, cell in row.cells.items()}}
            for row in forecast.contexts
        ],
    }


def forecast_text(model: str, summary: ModelSummary, forecast: Forecast) -> str:
    """Return the forecast as lines of at most 80 columns."""
    settings = forecast.settings
    conversations = f", {settings.n_seq_max} conversations" if settings.n_seq_max > 1 else ""
    lines = [
        f"{one_line(summary.name or Path(model).name)}: {format_count(summary.n_params)} parameters, "
        f"{summary.quant or f'mostly {summary.mix[0].type}'}, {summary.bpw:.2f} bits per weight",
        f"context {forecast.n_ctx_each:,} tokens{conversations}, KV type {settings.type_k}, {_placement(forecast)}",
    ]
    for pool in forecast.pools:
        lines += ["", *_pool_lines(pool)]
    lines += ["", _verdict(forecast), ""]
    lines += _table(forecast)
    return "\n".join(lines)


def _placement(forecast: Forecast) -> str:
    n_all = forecast.n_layer + 1
    if forecast.n_offloaded == 0:
        return "all layers on the CPU"
    if forecast.n_offloaded == n_all:
        return "all layers on the GPU"
    return f"{forecast.n_offloaded} of {n_all} layers on the GPU"


def _pool_lines(pool: Pool) -> list[str]:
    total = "" if pool.total is None else f" of {format_bytes(pool.total)}"
    available = "free memory unknown" if pool.available is None else f"{format_bytes(pool.available)}{total} is free"
    name = "host" if pool.id == "host" else f"{pool.id} ({pool.name})"
    parts = [f"{mark} {_WORDS[part]} {format_bytes(getattr(pool.used, part))}" for part, mark in _PARTS]
    rest = [f"{_SHARED} devices' {format_bytes(pool.shared)}"] if pool.shared else []
    if pool.headroom is not None:
        rest.append(
            f"{_FREE} free {format_bytes(pool.headroom)}"
            if pool.headroom >= 0
            else f"{_LACKING} lacking {format_bytes(-pool.headroom)}"
        )
    rest.append(f"{_RESERVE} reserve {format_bytes(pool.reserve)}")
    head = f"{name}: needs {format_bytes(pool.needed)}; {available}"
    return [head, f"  {bar(pool)}", f"  {'  '.join(parts[:3])}", f"  {'  '.join(parts[3:] + rest)}"]


def bar(pool: Pool, width: int = _BAR) -> str:
    """Return a pool as a bar: each part's share of what is available, or of what is needed where that is more."""
    whole = max(pool.available or 0, pool.needed + pool.reserve)
    ends, marks, reached = [], [], 0
    for part, mark in _PARTS:
        reached += getattr(pool.used, part)
        ends.append(reached)
        marks.append(mark)
    ends.append(pool.needed)
    marks.append(_SHARED)
    free = whole - pool.reserve
    lacking = max(0, -(pool.headroom or 0))
    cells = []
    for index in range(width):
        here = (index + 0.5) * whole / width
        if here >= whole - lacking:
            cells.append(_LACKING)
        elif here >= free:
            cells.append(_RESERVE)
        else:
            cells.append(next((mark for end, mark in zip(ends, marks, strict=True) if here < end), _FREE))
    return "".join(cells)


def _verdict(forecast: Forecast) -> str:
    asked = "llama.cpp's own figures" if forecast.source == "engine" else "by arithmetic"
    if not forecast.fits:
        return f"it does not fit ({asked})"
    spare = [pool.headroom for pool in forecast.pools if pool.headroom is not None]
    return f"it fits, with {format_bytes(min(spare))} to spare ({asked})" if spare else f"({asked})"


def _table(forecast: Forecast) -> list[str]:
    kv_types = tuple(forecast.contexts[0].cells)
    head = f"  {'context':>9}" + "".join(f"{kv_type:>14}" for kv_type in kv_types)
    lines = ["memory in all, by context and KV type (> is this plan)", head]
    for row in forecast.contexts:
        mark = ">" if row.n_ctx == forecast.n_ctx_each else " "
        lines.append(f"{mark} {row.n_ctx:>9,}" + "".join(f"{_cell(cell):>14}" for cell in row.cells.values()))
    if any(cell is not None and not cell.fits for row in forecast.contexts for cell in row.cells.values()):
        lines.append("  (in brackets: does not fit)")
    if any(
        cell is not None and cell.source == "arithmetic" for row in forecast.contexts for cell in row.cells.values()
    ):
        lines.append("  (~: by arithmetic)")
    return lines


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    about = "~" if cell.source == "arithmetic" else ""
    return f"{about}{format_bytes(cell.total)}" if cell.fits else f"({about}{format_bytes(cell.total)})"


def _does_not_fit(model: str, forecast: Forecast) -> InsufficientMemoryError:
    pool = min(forecast.pools, key=lambda pool: pool.headroom or 0)
    need, free = pool.needed + pool.reserve, pool.available or 0
    where = "RAM" if pool.id == "host" else pool.id
    return InsufficientMemoryError(
        f"it does not fit: needs {format_bytes(need)} of {where} with {format_bytes(pool.reserve)} left in reserve, "
        f"{format_bytes(free)} is free",
        _hint(model, forecast, pool),
    )


def _hint(model: str, forecast: Forecast, pool: Pool) -> str:
    if (found := what_fits(forecast)) is not None:
        return f"`llmrun plan {model} --ctx {found[0]} --kv-type {found[1]}` fits"
    if forecast.settings.n_seq_max > 1 and pool.used.kv_cache > pool.used.weights:
        return f"{forecast.settings.n_seq_max} conversations take most of it: try a smaller --parallel"
    weights = format_bytes(pool.used.weights)
    if pool.total is not None and pool.used.weights > pool.total:
        return f"the weights alone take {weights}, more than there is at all: choose a smaller model or quantization"
    return f"the weights alone take {weights}: choose a smaller quantization, or close other programs"
