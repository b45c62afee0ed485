"""`llmrun chat` without a model: the few that would run well here, the best first, and one key to choose."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace

from llmrun.cli.running import Wish
from llmrun.console import Console
from llmrun.reference import GUIDE
from llmrun.suggesting import Suggestion
from llmrun.units import format_bytes

_GUIDE_KEY, _LEAVE_KEYS, _ENTER = "g", ("q", "\x04"), ("\r", "\n")
_WIDE = 60  # columns, from which on there is room for what has to be fetched


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
    wide = width >= _WIDE
    names = max(len("model"), *(len(suggestion.name) for suggestion in found))
    rows = [_row(str(index), suggestion, names, wide=wide) for index, suggestion in enumerate(found, 1)]
    guide = "here, and knows only how to run models" if wide else "here, small"
    head = "no model was named: these would run well here, the best first" if wide else "these would run well here:"
    columns = f"    {'model':<{names}}  {'memory':>9}  {'speed':>8}" + ("  on" if wide else "")
    keys = f"1-{len(found)} chooses" if len(found) > 1 else "1 chooses"
    lines = [
        head,
        columns,
        *rows,
        f" {_GUIDE_KEY}  {GUIDE:<{names}}  {guide}",
        f"{keys}, Enter takes 1, q leaves",
    ]
    return [line[: width - 1] for line in lines]


def _row(key: str, suggestion: Suggestion, names: int, *, wide: bool) -> str:
    figures = f"{format_bytes(suggestion.memory):>9}  {suggestion.decode:>4.0f}"
    head = f" {key}  {suggestion.name:<{names}}  {figures}"
    if not wide:
        return f"{head} t/s{' *' if suggestion.here else ''}"
    where = "GPU+CPU" if suggestion.on_gpu is None else "GPU" if suggestion.on_gpu else "CPU"
    fetch = "here" if suggestion.here else f"{format_bytes(suggestion.size)} to fetch"
    return f"{head} t/s  {where:<7}  {fetch}"


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
