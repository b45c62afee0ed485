"""A plan as lines of at most 80 columns: what is run and how fast, what it takes, why, and what else there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from llmrun.cli.lender_text import lender_lines
from llmrun.console import one_line
from llmrun.gguf.summary import ModelSummary
from llmrun.memory.footprint import MemoryBreakdown
from llmrun.planning.forecast import Cell, Forecast
from llmrun.planning.plan import Better, Plan, RunnerUp, Whose
from llmrun.planning.policy import Where
from llmrun.planning.pools import Pool
from llmrun.planning.quality import loss_class
from llmrun.units import format_bytes, format_count

_BAR = 76  # characters; two columns of indent and two to spare in 80
_PARTS = (("weights", "█"), ("kv_cache", "▓"), ("compute", "▒"), ("overhead", "░"))
_SHARED, _FREE, _RESERVE, _LACKING = "+", "·", "|", "!"
BAR_KEYS = "█ weights  ▓ KV cache  ▒ compute  ░ overhead  · free  | reserve  ! lacking"
_WORDS = {"weights": "weights", "kv_cache": "KV cache", "compute": "compute", "overhead": "overhead"}
_PLACES: dict[Whose, dict[Where, str]] = {  # in at most 20 columns
    "own": {"devices": "GPU", "experts": "GPU, experts in RAM", "split": "GPU and CPU", "host": "CPU"},
    "lent": {"devices": "other machines", "experts": "lent, experts in RAM", "split": "lent and CPU", "host": "CPU"},
    "both": {"devices": "devices", "experts": "devices, RAM experts", "split": "devices and CPU", "host": "CPU"},
}
_LABEL = 18  # columns of a quantization's label; a file's name stands for one where labels do not tell them apart
# What people ask about first; the others are told where they are not as always
_TOLD = ("variant", "n_gpu_layers", "n_ctx", "type_k")
_NAMES = {
    "variant": "quantization",
    "n_gpu_layers": "layers",
    "n_ctx": "context",
    "type_k": "KV type",
    "cpu_experts": "experts",
    "tensor_split": "split",
    "n_ubatch": "batch",
    "n_seq_max": "parallel",
    "n_threads": "threads",
    "n_draft_max": "speculation",
    "n_threads_batch": "read threads",
    "loras": "adapters",
}


def plan_text(model: str, summary: ModelSummary, plan: Plan) -> str:
    """Return the whole plan; model: what it was asked for by."""
    lines = [*head_lines(model, summary, plan)]
    of_draft = (None,) * len(plan.forecast.pools) if plan.draft is None else plan.draft.used
    for pool, used in zip(plan.forecast.pools, of_draft, strict=True):
        lines += ["", *_pool_lines(pool), *_draft_lines(used), *lender_lines(plan.forecast, pool.id)]
    lines += ["", verdict(plan), "", "why", *_why(plan)]
    places = _PLACES[plan.owner]
    if plan.better:
        better = (_better_line(one, places) for one in plan.better)
        lines += ["", "what would be better, and why it is not taken", *better]
    if plan.runners_up:
        lines += ["", "next in line", *(_runner_line(one, places) for one in plan.runners_up)]
    return "\n".join([*lines, "", *_table(plan.forecast)])


def head_lines(model: str, summary: ModelSummary, plan: Plan) -> tuple[str, ...]:
    """Return what is run, where, with which context, and how fast."""
    forecast, settings = plan.forecast, plan.settings
    conversations = f", {settings.n_seq_max} conversations" if settings.n_seq_max > 1 else ""
    name = one_line(summary.name or Path(model).name)
    return (
        f"{name}: {format_count(summary.n_params)} parameters, {plan.quant}, {summary.bpw:.2f} bits per weight, "
        f"{loss_class(plan.loss).name}",
        placement(plan),
        f"context {forecast.n_ctx_each:,} tokens{conversations}, KV type {settings.type_k}",
        speed_line(plan),
    )


def placement(plan: Plan) -> str:
    """Return where the layers are, in words."""
    forecast, settings = plan.forecast, plan.settings
    n_all = forecast.n_layer + 1
    if forecast.n_offloaded == 0:
        return "all layers on the CPU"
    some = "all" if forecast.n_offloaded == n_all else f"{forecast.n_offloaded} of {n_all}"
    names = ", ".join(settings.devices or ())
    experts = f", the experts of {settings.cpu_experts} of them in RAM" if settings.cpu_experts else ""
    lent = [pool.lender is not None for pool in forecast.pools[1:]]
    where = "the GPU" if not any(lent) else "other machines" if all(lent) else "GPUs, others' too"
    return f"{some} layers on {where} ({names}){experts}"


def speed_line(plan: Plan) -> str:
    """Return how fast it will be, and how sure that is."""
    if plan.from_disk:
        return _disk_line(plan)
    speed = plan.speed
    if speed is None:
        return "how fast it will be is not known"
    band = f"±{speed.decode_error:.0%}"
    known = band if plan.measured else f"{band}, not measured"
    return f"about {_rate(speed.decode)} tokens a second writing, {_rate(speed.prefill)} reading ({known})"


def _disk_line(plan: Plan) -> str:
    size = format_bytes(plan.forecast.pools[0].used.mapped)
    if plan.decode is None or plan.disk_speed is None:
        return f"{size} are read from disk for every token, which takes long"
    disk = f"{format_bytes(plan.disk_speed)} a second"
    return f"about {_rate(1 / plan.decode)} seconds a token: {size} are read from disk for each, at {disk}"


def _rate(speed: float) -> str:
    return f"{speed:.1f}" if speed < 10 else f"{speed:,.0f}"


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
    return [
        *_head(head),
        f"  {bar(pool)}",
        f"  {'  '.join(parts[:3])}",
        f"  {'  '.join(parts[3:] + rest)}",
    ]


def _head(line: str) -> list[str]:
    """Return a pool's first line in two where it is too long for one: what is needed, and what is free."""
    if len(line) <= 80:
        return [line]
    needed, _, free = line.rpartition("; ")
    return [*_wrapped(f"{needed};", 2), *_wrapped(f"  {free}", 2)]


def _draft_lines(used: MemoryBreakdown | None) -> list[str]:
    """Say how much of what a pool needs is the draft's."""
    if used is None or not used.total:
        return []
    parts = [f"{_WORDS[part]} {format_bytes(size)}" for part, _ in _PARTS if (size := getattr(used, part))]
    return _wrapped(f"  of it the draft {format_bytes(used.total)}: {', '.join(parts)}", 4)


def bar(pool: Pool, width: int = _BAR, scale: int | None = None) -> str:
    """Return a pool as a bar: each part's share of what is available, or of what is needed where that is more.

    scale: bytes of the whole width where several bars stand below each other; what is longer is cut.
    """
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
        here = (index + 0.5) * (scale or whole) / width
        if scale is not None and here >= whole:
            break
        if here >= whole - lacking:
            cells.append(_LACKING)
        elif here >= free:
            cells.append(_RESERVE)
        else:
            cells.append(next((mark for end, mark in zip(ends, marks, strict=True) if here < end), _FREE))
    return "".join(cells)


def _why(plan: Plan) -> Iterator[str]:
    for reason in plan.reasons:
        usual = reason.cause == "DEFAULT" and reason.setting not in _TOLD
        twice = reason.setting in ("type_v", "n_threads_batch", "n_outputs_max") and reason.cause != "MEASURED"
        if usual or twice:
            continue
        if reason.setting in ("n_ubatch", "repack", "devices") and reason.cause == "SPEED":
            continue
        name = _NAMES.get(reason.setting, reason.setting)
        yield from _wrapped(f"  {name:<12}  {one_line(reason.value)}: {reason.note}", 16)


def _wrapped(line: str, indent: int) -> list[str]:
    import textwrap

    return textwrap.wrap(line, 80, subsequent_indent=" " * indent, drop_whitespace=True, break_long_words=False)


def _better_line(better: Better, places: Mapping[Where, str]) -> str:
    what = f"  {_cut(better.quant)} on {places[better.where]}"
    if not better.lacking:
        speed = "too slow" if better.decode is None else f"{_rate(better.decode)} tokens a second"
        return f"{what}: it would fit, at {speed}"
    pool = "RAM" if better.pool == "host" else better.pool
    shorter = "" if better.n_ctx is None else f"; --ctx {better.n_ctx} would do"
    return f"{what}: lacks {format_bytes(better.lacking)} of {pool}{shorter}"


def _runner_line(runner: RunnerUp, places: Mapping[Where, str]) -> str:
    speed = "" if runner.decode is None else f"{_rate(runner.decode):>8} t/s"
    label = _cut(runner.quant)
    place, total = places[runner.where], format_bytes(runner.total)
    return f"  {label:<{_LABEL}} {place:<20}{runner.n_ctx:>8,} tokens{total:>11}{speed}"


def _cut(label: str) -> str:
    """Return a label, of a long one its end, which is where files differ."""
    return label if len(label) <= _LABEL else f"…{label[1 - _LABEL :]}"


def verdict(plan: Plan) -> str:
    """Return whether it fits, and who says so."""
    forecast = plan.forecast
    asked = "llama.cpp's own figures" if forecast.source == "engine" else "by arithmetic"
    if plan.from_disk:
        return f"it does not fit, and is read from disk as you allowed ({asked})"
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
