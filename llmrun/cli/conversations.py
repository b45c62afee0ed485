"""`llmrun history`: kept conversations as lines of 80 columns and as JSON; exported, imported, removed."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llmrun.console import Console, one_line
from llmrun.errors import LLMRunError, NotFoundError, UsageError
from llmrun.folders import history_file
from llmrun.history.database import set_aside_files
from llmrun.history.export import figures, format_markdown, parse_conversation
from llmrun.history.exported_file import exported, parse_form, write_export
from llmrun.history.record import Hit, Saved, Summary
from llmrun.history.store import Store, read_store
from llmrun.states import Vault

_WIDTH = 80
_ID, _WHEN, _MODEL, _TURNS = 11, 11, 17, 5  # columns; the words have the rest
_HOUR, _DAY = 3600, 86_400  # seconds
_MAX_IMPORT = 64 * 1024 * 1024  # bytes; the longest conversations have some MB
_MAX_SHOWN = 20  # conversations to be removed


@dataclass(frozen=True, slots=True)
class RemoveWish:
    """Everything the command line said."""

    conversations: tuple[str, ...]
    everything: bool
    yes: bool
    json: bool
    quiet: bool


def run_list(limit: int, *, as_json: bool, quiet: bool) -> None:
    """Show the last conversations."""
    console = Console(quiet=quiet)
    with _open(console) as store:
        found, total = store.list(limit), store.count()
    if as_json:
        console.data({"conversations": [_summary_figures(summary) for summary in found], "total": total})
        return
    if not found:
        console.say("no conversation is kept yet: `llmrun chat` begins one")
        return
    console.show(list_text(found, datetime.now(UTC)))
    if total > limit:
        console.say(f"{total - limit} more: --limit {total} shows all")


def run_search(words: str, limit: int, *, as_json: bool, quiet: bool) -> None:
    """Show the conversations in which all words occur."""
    console = Console(quiet=quiet)
    if not words.strip():
        raise UsageError("there is nothing to search for", "llmrun history search kv cache")
    with _open(console) as store:
        hits = store.search(words, limit)
    if as_json:
        console.data({"words": words, "conversations": [_hit_figures(hit) for hit in hits]})
        return
    if not hits:
        raise NotFoundError(f"no conversation has {words[:80]!r} in it", "fewer words find more")
    console.show(search_text(hits, datetime.now(UTC)))
    console.say(f"`llmrun history show {hits[0].summary.id}` shows all of one")


def run_show(key: str, *, as_json: bool, quiet: bool) -> None:
    """Show a conversation."""
    console = Console(quiet=quiet)
    saved = _find(key, console)
    if as_json:
        console.data(figures(saved))
    else:
        console.show(format_markdown(saved).rstrip("\n"))


def run_export(key: str, form: str, output: Path | None, *, quiet: bool) -> None:
    """Write a conversation to stdout, or into a file that is not there yet."""
    console = Console(quiet=quiet)
    meant = parse_form(form, f"llmrun history export {key} json")
    saved = _find(key, console)
    if output is None:
        console.show(exported(saved, meant).rstrip("\n"))
        return
    write_export(saved, meant, output)
    console.say(f"{saved.id} is in {output}")


def run_import(file: Path, *, as_json: bool, quiet: bool) -> None:
    """Keep a conversation that was exported."""
    console = Console(quiet=quiet)
    saved = parse_conversation(_read(file))
    with _open(console, make=True) as store:
        key = store.insert(saved)
    if as_json:
        console.data({"id": key})
    else:
        console.say(f"kept as {key}: `llmrun history show {key}` shows it")


def run_remove(wish: RemoveWish) -> None:
    """Remove conversations; raises UsageError where none is named, or nobody said yes."""
    console = Console(quiet=wish.quiet)
    if wish.everything == bool(wish.conversations):
        raise UsageError("either conversations are named, or --all is", "llmrun history rm ID, or --all")
    with _open(console) as store:
        meant = _meant(wish, store)
        if meant and not wish.json:
            console.say(list_text(meant[:_MAX_SHOWN], datetime.now(UTC)))
        if meant:
            _confirm(len(meant), wish)
        store.delete(*(summary.id for summary in meant))
    for summary in meant:
        Vault().forget(summary.id)  # what the model had in memory of it is its words too
    if wish.json:
        console.data({"removed": [summary.id for summary in meant]})
    else:
        console.say(f"removed: {_count(len(meant))}")
    for file in set_aside_files(history_file()) if wish.everything else ():
        console.notice(f"note: older ones, which could not be read, are still in {one_line(str(file))}")


def list_text(found: Sequence[Summary], now: datetime) -> str:
    """Return a table of 80 columns; now: for how long ago it was."""
    return "\n".join([_row("ID", "WHEN", "MODEL", "SAID", "WORDS"), *(_line(summary, now) for summary in found)])


def search_text(hits: Sequence[Hit], now: datetime) -> str:
    """Return each conversation with the place that was found below it."""
    lines = [_row("ID", "WHEN", "MODEL", "SAID", "WORDS")]
    for hit in hits:
        place = f"{hit.role}: {hit.snippet}" if hit.role else hit.snippet
        lines += [_line(hit.summary, now), *(f"  > {line}" for line in _wrapped(one_line(place), _WIDTH - 4))]
    return "\n".join(lines)


def ago(then: datetime, now: datetime) -> str:
    """Return how long ago something was, as people say it; a date, where that is two weeks or more."""
    seconds = (now - then).total_seconds()
    for length, unit, limit in ((1, "", 60), (60, "min", _HOUR), (_HOUR, "h", _DAY), (_DAY, "days", 14 * _DAY)):
        if seconds < limit:
            count = int(seconds // length)
            return "just now" if not unit else "yesterday" if (count, unit) == (1, "days") else f"{count} {unit} ago"
    return f"{then.astimezone():%Y-%m-%d}"


def _line(summary: Summary, now: datetime) -> str:
    words = " ".join(summary.first.split())
    title = f"{summary.name}: {words}" if summary.name else words
    return _row(summary.id, ago(summary.updated, now), _short(summary.model), str(summary.n_turns), title)


def _short(model: str) -> str:
    """The part of a model's name that says most: without owner or folder."""
    return model.replace("\\", "/").rstrip("/").rpartition("/")[2] or model


def _row(key: str, when: str, model: str, turns: str, words: str) -> str:
    rest = _WIDTH - _ID - _WHEN - _MODEL - _TURNS - 6  # and the blanks between them
    return f"{key:<{_ID}} {when:<{_WHEN}}  {_cut(model, _MODEL)} {turns:>{_TURNS}}  {_cut(words, rest)}".rstrip()


def _cut(text: str, width: int) -> str:
    """A text in just so many columns, of which some letters take two."""
    from rich.cells import cell_len, set_cell_size

    shown = one_line(text[: 4 * width])
    if cell_len(shown) > width:
        shown = set_cell_size(shown, width - 1).rstrip() + "…"
    return set_cell_size(shown, width)


def _wrapped(text: str, width: int) -> Iterator[str]:
    """A text in lines of so many columns; where letters take two, lines are divided again."""
    from rich.cells import chop_cells

    for line in textwrap.wrap(text, width):
        yield from chop_cells(line, width)


def _summary_figures(summary: Summary) -> dict[str, object]:
    return {
        "id": summary.id,
        "name": summary.name,
        "model": summary.model,
        "created": summary.created.isoformat(),
        "updated": summary.updated.isoformat(),
        "turns": summary.n_turns,
        "first": summary.first,
    }


def _hit_figures(hit: Hit) -> dict[str, object]:
    return {**_summary_figures(hit.summary), "role": hit.role, "snippet": hit.snippet}


def _open(console: Console, *, make: bool = False) -> Store:
    return read_store(tell=lambda text: console.notice(f"note: {text}"), make=make)


def _find(key: str, console: Console) -> Saved:
    with _open(console) as store:
        return store.find(key)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_IMPORT + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {file}") from None
    except OSError as error:
        raise LLMRunError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_IMPORT:
        raise UsageError(f"{file} is larger than any conversation", "`llmrun history export ID json` writes one")
    return content.decode("utf-8", "replace")


def _meant(wish: RemoveWish, store: Store) -> tuple[Summary, ...]:
    listed = store.list()
    if wish.everything:
        return listed
    wanted = {store.find(key).id for key in wish.conversations}
    return tuple(summary for summary in listed if summary.id in wanted)


def _confirm(count: int, wish: RemoveWish) -> None:
    """Ask, on stderr; raises UsageError where nobody can answer, or the answer is no."""
    import typer

    if wish.yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("nothing is removed without asking, and there is no terminal to ask on", "add --yes")
    if not typer.confirm(f"remove {_count(count)}?", err=True):
        raise UsageError("nothing was removed")


def _count(count: int) -> str:
    return f"{count} conversation{'s' * (count != 1)}"
