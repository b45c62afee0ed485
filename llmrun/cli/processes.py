"""`llmrun ps`: the servers of this user that run, and the models they hold, as lines of 80 columns and as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from llmrun.console import Console, one_line
from llmrun.servers.control import LoadedModel
from llmrun.servers.finding import Seen, list_servers
from llmrun.units import format_bytes, format_seconds

_MODEL, _QUANT, _MEMORY, _CONTEXT, _BUSY = 25, 10, 10, 9, 5  # columns
_WHILE_IT_FITS = "while it fits"
NO_SERVER = "no server is running: `llmrun serve` starts one"


def run_ps(*, as_json: bool, quiet: bool) -> None:
    """Show what runs."""
    console = Console(quiet=quiet)
    servers = tuple(list_servers())
    if as_json:
        console.data({"servers": [_figures(seen) for seen in servers]})
    elif servers:
        console.show(servers_text(servers, time.time()))
    else:
        console.say(NO_SERVER)


def _figures(seen: Seen) -> dict[str, object]:
    """Return a server as plain values; sizes are bytes, times seconds (since 1970, or from now on)."""
    note = seen.note
    return {
        "address": note.address,
        "listens": note.listens or note.address,
        "pid": note.pid,
        "since": note.since,
        "models": [model.name for model in note.models],
        "loaded": [asdict(model) for model in seen.loaded],
        "trouble": seen.trouble,
    }


def servers_text(servers: Sequence[Seen], now: float) -> str:
    """Return each server as a line, and its models as rows; now: seconds since 1970."""
    return "\n\n".join("\n".join(_server_lines(seen, now)) for seen in servers)


def _server_lines(seen: Seen, now: float) -> Iterator[str]:
    note = seen.note
    yield f"{note.address}  pid {note.pid}, up {format_seconds(max(0.0, now - note.since))}"
    if note.listens is not None:
        yield f"  open to other machines: it listens at {one_line(note.listens)}"
    if seen.trouble is not None:
        yield f"  > {one_line(seen.trouble)}"
        return
    yield _row("MODEL", "QUANT", "MEMORY", "CONTEXT", "BUSY", "STAYS")
    for model in seen.loaded:
        yield from _model_lines(model)
    loaded = {name for model in seen.loaded for name in (model.name, *model.names)}
    for served in note.models:
        if served.name not in loaded:
            yield from _named(served.name, "", "", "", "", "not loaded")


def _model_lines(model: LoadedModel) -> Iterator[str]:
    left = _WHILE_IT_FITS if model.expires_in is None else format_seconds(max(0.0, model.expires_in))
    stays = "pinned" if model.pinned else left
    busy = f"{model.busy}/{model.n_slots}"
    return _named(
        model.name,
        one_line(model.quant),
        format_bytes(model.memory),
        f"{model.n_ctx:,}",
        busy,
        stays,
    )


def _named(name: str, *cells: str) -> Iterator[str]:
    """A row, in two lines where the name is long."""
    name = one_line(name)
    if len(name) > _MODEL:
        yield f"  {name}"
        name = ""
    yield _row(name, *cells)


def _row(model: str, quant: str, memory: str, context: str, busy: str, left: str) -> str:
    cells = f"{model:<{_MODEL}} {quant:<{_QUANT}} {memory:>{_MEMORY}} {context:>{_CONTEXT}} {busy:>{_BUSY}}"
    return f"  {cells}  {left}".rstrip()
