"""The commands below `llmrun history`: what was said in chats that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmrun.cli import options as o
from llmrun.cli.flags import check_behind
from llmrun.errors import LLMRunError

history_app = typer.Typer(help="Show, search and export the conversations that are kept.", no_args_is_help=False)

_LIMIT = 20  # conversations


def complete_conversation(incomplete: str) -> list[str]:
    """Return ids and names that begin so, for a shell, which shows no errors.

    Only names that mean nothing to a shell, and no words of a conversation: zsh evaluates what it is given.
    """
    from llmrun.history.store import read_store

    try:
        with read_store() as store:
            found = [name for summary in store.list() for name in (summary.name, summary.id) if name]
    except LLMRunError:
        return []
    return [name for name in found if name.startswith(incomplete) and name.replace("-", "").isalnum()]


Key = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Its id, how that begins, or its name.",
        show_default=False,
        autocompletion=complete_conversation,
    ),
]
Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID",
        help="Their ids, or their names.",
        show_default=False,
        autocompletion=complete_conversation,
    ),
]
Words = Annotated[list[str], typer.Argument(help="What was said; all of it must occur.", show_default=False)]
Form = Annotated[str, typer.Argument(metavar="[md|json]", help="Markdown, or JSON that can be imported again.")]
Limit = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Show at most N.")]
OutputFile = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write it there. (default: stdout)", show_default=False),
]
InputFile = Annotated[Path, typer.Argument(metavar="FILE", help="What `llmrun history export ID json` wrote.")]
All = Annotated[bool, typer.Option("--all", help="Remove all of them.")]
YesRemove = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]


@history_app.callback(invoke_without_command=True)
def history(context: typer.Context, limit: Limit = _LIMIT, json: o.PlainJson = False, quiet: o.Quiet = False) -> None:
    """Show the conversations that are kept, the last one first; or do more with them."""
    if context.invoked_subcommand is not None:
        given = {"--limit": limit != _LIMIT, "--json": json, "--quiet": quiet}
        check_behind("history", context.invoked_subcommand, given)
        return
    from llmrun.cli.conversations import run_list

    run_list(limit, as_json=json, quiet=quiet)


@history_app.command()
def search(words: Words, limit: Limit = _LIMIT, json: o.PlainJson = False, quiet: o.Quiet = False) -> None:
    """Find conversations by the words in them, the best first."""
    from llmrun.cli.conversations import run_search

    run_search(" ".join(words), limit, as_json=json, quiet=quiet)


@history_app.command()
def show(conversation: Key, json: o.PlainJson = False, quiet: o.Quiet = False) -> None:
    """Show all of a conversation."""
    from llmrun.cli.conversations import run_show

    run_show(conversation, as_json=json, quiet=quiet)


@history_app.command()
def export(conversation: Key, form: Form = "md", output: OutputFile = None, quiet: o.Quiet = False) -> None:
    """Write a conversation as Markdown or JSON."""
    from llmrun.cli.conversations import run_export

    run_export(conversation, form, output, quiet=quiet)


@history_app.command(name="import")
def import_file(file: InputFile, json: o.PlainJson = False, quiet: o.Quiet = False) -> None:
    """Keep a conversation that was exported as JSON."""
    from llmrun.cli.conversations import run_import

    run_import(file, as_json=json, quiet=quiet)


@history_app.command()
def rm(
    conversations: Keys = None,
    everything: All = False,
    yes: YesRemove = False,
    json: o.PlainJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Remove conversations, after asking."""
    from llmrun.cli.conversations import RemoveWish, run_remove

    run_remove(RemoveWish(tuple(conversations or ()), everything, yes, json, quiet))
