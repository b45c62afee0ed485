"""The user's editor, for a text that is too long for a line."""

from __future__ import annotations

import os
from collections.abc import Callable

from llmrun.errors import UsageError


def editor() -> Callable[[str], str | None] | None:
    """Return what lets a text be changed in $VISUAL or $EDITOR, None where neither is set.

    What is returned gives the text as it was saved, None if it was not, and raises UsageError for an editor that does
    not start.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    return (lambda text: _edit(text, command)) if command else None


def _edit(text: str, command: str) -> str | None:
    import click

    try:
        return click.edit(text, editor=command, extension=".md")
    except (click.ClickException, UnicodeError, OSError) as error:
        raise UsageError(f"the editor {command} does not work", "$EDITOR names it") from error
