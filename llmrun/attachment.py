"""Files whose text goes with a question: read within limits, refused by name where they hold no text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import NotFoundError, UsageError
from llmrun.units import format_bytes

# Some four million tokens, more than any model is trained for. A token is about four bytes of English: a rule of thumb
MAX_BYTES = 16 << 20
_BYTES_A_TOKEN = 4

_KINDS = (
    (b"%PDF-", "a PDF", "pdftotext {name} - | llmrun run …"),
    (b"PK\x03\x04", "an archive or an office document", "pandoc -t plain {name} | llmrun run …"),
    (b"GGUF", "a model", "llmrun inspect {name}"),
    (b"\x89PNG", "an image", None),
    (b"\xff\xd8\xff", "an image", None),
    (b"\x1f\x8b", "compressed", "zcat {name} | llmrun run …"),
)
_ENCODINGS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class Attachment:
    """The text of a file, and the name it goes by."""

    name: str
    text: str

    def introduced(self) -> str:
        """Return the text between lines that say where it begins, where it ends, and whose it is."""
        return f"--- {self.name} ---\n{self.text.rstrip()}\n--- end of {self.name} ---"


def read_attachment(path: Path) -> Attachment:
    """Read a file of text, in UTF-8 or UTF-16; raises NotFoundError, or UsageError for what is no text, or too much."""
    name = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        size = max(len(data), path.stat().st_size)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {name}") from error
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    for magic, kind, hint in _KINDS:
        if data.startswith(magic):
            raise UsageError(f"{name} is {kind}, and only text can be attached", hint and hint.format(name=name))
    if size > MAX_BYTES:
        raise _too_long([name], size)
    return Attachment(name, _decoded(name, data))


def read_attachments(paths: Sequence[Path]) -> tuple[Attachment, ...]:
    """Read files of text as `read_attachment` does; raises UsageError where they are too much together."""
    found = tuple(map(read_attachment, paths))
    size = sum(len(attachment.text) for attachment in found)
    if size > MAX_BYTES:
        raise _too_long([attachment.name for attachment in found], size)
    return found


def _too_long(names: Sequence[str], size: int) -> UsageError:
    return UsageError(
        f"{' and '.join(names[:3])} {'has' if len(names) == 1 else 'have'} {format_bytes(size)}, about "
        f"{size // _BYTES_A_TOKEN:,} tokens: no context holds that",
        f"attach the part that matters: head -c 100000 {names[0]} | llmrun run …",
    )


def _decoded(name: str, data: bytes) -> str:
    encoding = next((encoding for mark, encoding in _ENCODINGS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise UsageError(f"{name} is binary, and only text can be attached") from error
        raise UsageError(
            f"{name} is not UTF-8 (byte {error.start:,})", f"iconv -f latin1 -t utf-8 {name} | llmrun run …"
        ) from error
    if "\0" in text:
        raise UsageError(f"{name} is binary, and only text can be attached")
    return text
