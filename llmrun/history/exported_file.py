"""A conversation written into a file that is not there yet."""

from __future__ import annotations

from pathlib import Path

from llmrun.errors import LLMRunError, UsageError
from llmrun.history.export import FORMS, Form, format_json, format_markdown
from llmrun.history.record import Saved


def parse_form(text: str, example: str) -> Form:
    """Return the form that is meant; raises UsageError with an example for one that there is not."""
    for form in FORMS:
        if text.lower() == form:
            return form
    raise UsageError(f"{text!r} is none of {', '.join(FORMS)}", example)


def exported(saved: Saved, form: Form) -> str:
    """Return a conversation in this form."""
    return format_json(saved) if form == "json" else format_markdown(saved)


def write_export(saved: Saved, form: Form, path: Path) -> None:
    """Write it; raises UsageError for a file that is there, LLMRunError for one that cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(exported(saved, form))
    except FileExistsError:
        raise UsageError(f"{path} is there already", "another name, or remove it first") from None
    except OSError as error:
        raise LLMRunError(f"{path} cannot be written: {error.strerror}") from error
