"""`llmrun chat` without a model: the few that would run well here, the best first, and one key to choose."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmrun.cli.running import Wish
from llmrun.console import Console
from llmrun.reference import GUIDE
from llmrun.suggesting import Suggestion
from llmrun.units import format_bytes

_GUIDE_KEY, _LEAVE_KEYS, _ENTER = "g", ("q", "\x04"), ("\r", "\n")
_WIDE = 72  # columns, from which on there is room for what has to be fetched
_NAME = 18  # columns of a name where there is not


def with_a_model(wish: Wish) -> Wish | None:
    """Return a wish that named no model with the one that a person chose; None where they would rather leave.

    Where there is nobody to ask, or nothing to choose, it is guide. Raises KeyboardInterrupt for Ctrl-C.
    """
    console = Console(quiet=wish.quiet, verbose=wish.verbose)
    if not is_asked(wish):
        return replace(wish, model=GUIDE)
    from llmrun.suggestions import read_suggestions

    console.status("looking which models would run well here")
    found = read_suggestions(offline=wish.offline)
    console.clear_status()
    if not found:
        return replace(wish, model=GUIDE)
    console.notice("\n".join(suggestion_lines(found, shutil.get_terminal_size().columns)))
    chosen = _chosen([suggestion.name for suggestion in found])
    return None if chosen is None else replace(wish, model=chosen)


def is_asked(wish: Wish) -> bool:
    """Whether somebody is there to be asked: at a terminal, who wants to be told things and has no plan to run."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    at_a_terminal = all(stream is not None and stream.isatty() for stream in streams)
    return at_a_terminal and not (wish.quiet or wish.json or wish.replay)


def suggestion_lines(found: Sequence[Suggestion], width: int) -> list[str]:
    """Return the models as rows of a table, guide last, and the keys, in lines that fit into `width`."""
    table = _wide_table(found) if width >= _WIDE else _narrow_table(found)
    keys = f"1-{len(found)} chooses" if len(found) > 1 else "1 chooses"
    return [line[: width - 1] for line in (*table, f"{keys}, Enter takes 1, q leaves")]


def _wide_table(found: Sequence[Suggestion]) -> Iterator[str]:
    names = max(len("model"), *(len(suggestion.name) for suggestion in found))
    yield "no model was named: these would run well here, the best first"
    yield f"    {'model':<{names}}  {'memory':>9}  {'speed':>8}  on"
    for index, one in enumerate(found, 1):
        where = "GPU+CPU" if one.on_gpu is None else "GPU" if one.on_gpu else "CPU"
        fetch = "here" if one.here else f"{format_bytes(one.size)} to fetch"
        figures = f"{format_bytes(one.memory):>9}  {one.decode:>4.0f} t/s  {where:<7}"
        yield f" {index}  {one.name:<{names}}  {figures}  {fetch}"
    yield f" {_GUIDE_KEY}  {GUIDE:<{names}}  here, and knows only how to run models"


def _narrow_table(found: Sequence[Suggestion]) -> Iterator[str]:
    shown = [one.name if len(one.name) <= _NAME else f"{one.name[: _NAME - 1]}…" for one in found]
    names = max(map(len, [*shown, GUIDE]))
    yield "these would run well here, * is there:"
    for index, (name, one) in enumerate(zip(shown, found, strict=True), 1):
        mark = "*" if one.here else " "
        yield f"{mark}{index} {name:<{names}} {format_bytes(one.memory):>8} {one.decode:>4.0f} t/s"
    yield f"*{_GUIDE_KEY} {GUIDE}, knows how to run models"


def _chosen(names: Sequence[str]) -> str | None:
    """Return what a key chose; any other key is waited out. Raises KeyboardInterrupt for Ctrl-C."""
    import typer

    while True:
        try:
            key = typer.getchar().lower()
        except EOFError:
            return None
        if key in _LEAVE_KEYS:
            return None
        if key in _ENTER:
            return names[0]
        if key == _GUIDE_KEY:
            return GUIDE
        if len(key) == 1 and key in "123456789"[: len(names)]:
            return names[int(key) - 1]
