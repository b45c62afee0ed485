"""`llmrun list`: the models that are on this machine, as lines of 80 columns and as JSON."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from llmrun.console import Console, one_line
from llmrun.inventory import Holding, Inventory, Keeper, Unfinished, read_inventory
from llmrun.units import format_bytes

_WIDTH = 80
_MODEL, _QUANT, _SIZE = 40, 12, 10  # columns
_OTHERS: tuple[Keeper, ...] = ("ollama", "lmstudio", "llama.cpp")
_DAY = 86_400  # seconds


def run_list(*, as_json: bool, quiet: bool) -> None:
    """Show what is here."""
    console = Console(quiet=quiet)
    found, remembered = read_inventory(), _remembered()
    if as_json:
        console.data(inventory_figures(found) | {"total_remembered": remembered})
        return
    console.show(inventory_text(found, time.time()))
    if remembered:
        console.show(f"{format_bytes(remembered)} of what models have read: `llmrun rm --cache` removes it")
    for note in found.notes:
        console.say(f"note: {one_line(note)}")


def _remembered() -> int:
    """Return the bytes that are kept of what models have read, of prompts and of conversations."""
    from llmrun.prompt_files import PromptFiles
    from llmrun.states import Vault

    return PromptFiles().held() + Vault().held()


def inventory_figures(found: Inventory) -> dict[str, object]:
    """Return everything as plain values; sizes are bytes, times seconds since 1970."""
    return {
        "cache": str(found.folder),
        "models": [_model_figures(held) for held in found.holdings],
        "unfinished": [_unfinished_figures(download) for download in found.unfinished],
        "total": found.size("llmrun", "hub", *_OTHERS),
        "total_cache": found.size("hub"),
        "total_others": found.size(*_OTHERS),
        "notes": list(found.notes),
    }


def _model_figures(held: Holding) -> dict[str, object]:
    return {
        "model": held.reference,
        "keeper": held.keeper,
        "kind": held.kind,
        "quant": held.quant,
        "size": held.size,
        "last_used": held.last_used,
        "problem": held.problem,
        "files": [
            {"name": file.name, "path": str(file.origin), "size": file.size, "sha256": file.sha256}
            for file in held.files
        ],
    }


def _unfinished_figures(download: Unfinished) -> dict[str, object]:
    partial = download.partial
    return {
        "model": download.repo_id,
        "name": partial.name,
        "path": str(partial.path),
        "size": partial.size,
        "total": partial.total,
        "sha256": partial.sha256,
        "last_used": partial.changed,
    }


def inventory_text(found: Inventory, now: float) -> str:
    """Return the models as rows, what is to be said of one below it, and the sums; now: seconds since 1970."""
    lines = [_row("MODEL", "QUANT", "SIZE", "LAST USED")]
    for model, group in groupby(found.holdings, lambda held: held.model):
        lines += _model_lines(model, list(group), [d for d in found.unfinished if d.repo_id == model], now)
    named = {held.model for held in found.holdings}
    rest = [download for download in found.unfinished if download.repo_id not in named]
    for model, downloads in groupby(rest, lambda download: download.repo_id):
        lines += _model_lines(model, [], list(downloads), now)
    return "\n".join([*lines, "", *_sums(found)])


def _model_lines(model: str, group: Sequence[Holding], downloads: Sequence[Unfinished], now: float) -> Iterator[str]:
    name = one_line(_short(Path(model)) if model.lower().endswith(".gguf") else model)  # a path is typed with ~ too
    if len(name) > _MODEL:
        yield name
        name = ""
    for held in group:
        yield _row(name, _label(held), format_bytes(held.size), _ago(held.last_used, now))
        yield from _below(held.problem)
        name = ""
    for download in downloads:
        partial = download.partial
        yield _row(name, "unfinished", format_bytes(partial.size), _ago(partial.changed, now))
        yield from _below(_how_to_go_on(download))
        name = ""


def _label(held: Holding) -> str:
    return one_line(held.quant or ("" if held.kind == "model" else held.kind))


def _row(model: str, quant: str, size: str, used: str) -> str:
    return f"{model:<{_MODEL}} {quant:<{_QUANT}} {size:>{_SIZE}}  {used}".rstrip()


def _below(text: str | None) -> list[str]:
    lines = textwrap.wrap(one_line(text or ""), _WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return [f"  {'>' if index == 0 else ' '} {line}" for index, line in enumerate(lines)]


def _how_to_go_on(download: Unfinished) -> str:
    partial = download.partial
    if partial.name is None or not partial.total:  # the part tells its sum, and not whose it is
        return f"`llmrun pull {download.repo_id}`, in the same quantization, goes on with it"
    part = f"{partial.size / partial.total:.0%} of {partial.name}"
    return f"{part} is here: `llmrun pull {download.repo_id}:{partial.name}` goes on with it"


def _ago(then: float | None, now: float) -> str:
    """Return how long ago something was, in days of this time zone, as people say it."""
    if then is None:
        return ""
    offset = time.localtime(now).tm_gmtoff
    days = int((now + offset) // _DAY - (then + offset) // _DAY)
    if days < 2:
        return "yesterday" if days == 1 else "today"
    for unit, length, limit in (("day", 1, 14), ("week", 7, 60), ("month", 30, 730)):
        if days < limit:
            return f"{days // length} {unit}s ago"
    return f"{days // 365} years ago"


def _sums(found: Inventory) -> list[str]:
    place = _short(found.folder)
    text = f"{format_bytes(found.size('hub'))} in {one_line(place)}"
    if others := found.size(*_OTHERS):
        text += f", {format_bytes(others)} in other programs' folders, which llmrun only reads"
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _short(path: Path) -> str:
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):  # elsewhere, or there is no home
        return str(path)
