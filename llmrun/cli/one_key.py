"""A question that one key answers."""

from __future__ import annotations

from collections.abc import Mapping

from llmrun.console import Console, bullet_list


def ask_one_key(console: Console, question: str, choices: Mapping[str, str]) -> str:
    """Show what each key would do, and return the key that was pressed; Enter, Ctrl-C and Ctrl-D are the last choice.

    Any other key is waited out: nothing is done that nobody chose.
    """
    import typer

    console.notice(f"{question}\n{bullet_list(list(choices.items()))}")
    last = list(choices)[-1]
    while True:
        try:
            key = typer.getchar().lower()
        except (KeyboardInterrupt, EOFError):
            return last
        if key in choices:
            return key
        if key in {"\r", "\n"}:
            return last
