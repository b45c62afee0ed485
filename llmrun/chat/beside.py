"""What goes beside the next question: texts of files, and images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llmrun.attachment import Attachment, read_attachment
from llmrun.errors import UsageError


@dataclass(slots=True)
class Beside:
    """Files that were named, until a question takes them along."""

    images: list[str] = field(default_factory=list)
    _texts: list[Attachment] = field(default_factory=list)

    def attach(self, path: Path) -> Attachment:
        """Attach a file of text; raises NotFoundError, or UsageError for what is no text, or too much."""
        attachment = read_attachment(path)
        self._texts.append(attachment)
        return attachment

    def question(self, text: str) -> str:
        """Return a question behind the texts that go with it: asked otherwise, these need not be read again."""
        return "\n\n".join([*(attachment.introduced() for attachment in self._texts), text])

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing."""
        return not (self.images or self._texts)

    def clear(self) -> None:
        """Forget what was taken along."""
        self.images.clear()
        self._texts.clear()


def unquoted_path(text: str, example: str) -> Path:
    """Return the path that was typed, or dropped onto the terminal, which may put quotes or backslashes into it.

    example: for whoever names none. Raises UsageError where there is none, or it can be none.
    """
    stripped = text.strip()
    if not stripped:
        raise UsageError("there is no file named", f"for example {example}")
    typed = _at_home(stripped)
    if _is_there(typed):
        return typed
    if stripped[:1] in "\"'" and stripped[-1:] == stripped[:1]:
        return _at_home(stripped[1:-1])
    unescaped = _at_home(stripped.replace("\\ ", " "))
    return unescaped if _is_there(unescaped) else typed


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # who reads it says what is wrong with it
        return False


def _at_home(text: str) -> Path:
    if "\0" in text:
        raise UsageError("a path has no NUL in it", "type it, or drag the file here")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"there is no home directory for {text}", "give the whole path") from error
