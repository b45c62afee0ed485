"""Where prompts lie: a file each, in the user's configuration folder, made by `llmrun prompt save` or by hand."""

from __future__ import annotations

import difflib
from pathlib import Path

from llmrun.errors import LLMRunError, NotFoundError, UsageError
from llmrun.folders import prompts_folder
from llmrun.prompts.prompt import Prompt, check_prompt_name, format_prompt, parse_prompt

_MAX_BYTES = 1 << 20  # of a file; a prompt is seldom longer than a page
_MAX_NEAREST = 3


def prompt_names(folder: Path | None = None) -> tuple[str, ...]:
    """Return the names of the prompts that are there."""
    folder = folder or prompts_folder()
    try:
        return tuple(sorted(path.stem for path in folder.iterdir() if path.suffix == ".toml"))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise LLMRunError(f"{folder} cannot be read: {error.strerror}") from error


def read_prompt(name: str, folder: Path | None = None) -> Prompt:
    """Return a prompt; raises UsageError where its file is damaged, NotFoundError, with the nearest names."""
    path = prompt_file(name, folder)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise _not_found(name, folder) from None
    except OSError as error:
        raise LLMRunError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{path} is larger than 1 MiB", "a long text is piped in, and $input stands for it")
    try:
        return parse_prompt(name, content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not in UTF-8", "an editor can save it so") from error


def save_prompt(prompt: Prompt, folder: Path | None = None, *, over: bool = False) -> Path:
    """Keep a prompt, whole or not at all, and return its file.

    over: whether it may take the place of another; raises UsageError where it may not.
    """
    path = prompt_file(prompt.name, folder)
    if path.exists() and not over:
        raise UsageError(f"there is a prompt {prompt.name!r} already", "--force puts this in its place")
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(format_prompt(prompt), "utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        raise LLMRunError(f"{path} cannot be written: {error.strerror}") from error
    return path


def remove_prompt(name: str, folder: Path | None = None) -> None:
    """Remove a prompt; raises NotFoundError."""
    path = prompt_file(name, folder)
    try:
        path.unlink()
    except FileNotFoundError:
        raise _not_found(name, folder) from None
    except OSError as error:
        raise LLMRunError(f"{path} cannot be removed: {error.strerror}") from error


def prompt_file(name: str, folder: Path | None = None) -> Path:
    """Return the file of a prompt; raises UsageError for a name that could be a path."""
    return (folder or prompts_folder()) / f"{check_prompt_name(name)}.toml"


def _not_found(name: str, folder: Path | None) -> NotFoundError:
    close = difflib.get_close_matches(name, prompt_names(folder), _MAX_NEAREST)
    return NotFoundError(
        f"there is no prompt {name!r}",
        f"did you mean {' or '.join(close)}?" if close else f"llmrun prompt save {name} 'Summarize: $input'",
    )
