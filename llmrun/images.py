"""Images to show to a model: a file looked at before anything is loaded for it.

What a file is, it says itself in its first bytes; its name is not asked. Must not know what becomes of the image.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import NotFoundError, UsageError
from llmrun.units import format_bytes

MAX_BYTES = 32 << 20  # of a file
MAX_SIDE = 16384  # pixels
MAX_PIXELS = 64 << 20  # 192 MiB once unpacked to RGB, which llama.cpp does: a small file can hold a huge image
MAX_IMAGES = 32  # of one message

_HINT = "JPEG, PNG, BMP and GIF are read"
# what begins so and is no image that stb_image, which llama.cpp reads them with, knows
_OTHERS = (
    (b"RIFF", "WebP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG or other XML"),
)
_SIZES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})  # JPEG's SOF0 to 15
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # JPEG's markers without a length


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a file: its absolute path, its format by name, pixels of each side, bytes of the file."""

    path: str
    format: str
    width: int
    height: int
    size: int


def read_image(path: Path | str) -> Image:
    """Return what a file holds; NotFoundError where there is none, UsageError for what is no image or too large."""
    try:
        absolute = Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"there is no home directory for {path}", "give the whole path") from error
    try:
        data = _read(absolute)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no image {path}", "check the path") from error
    except OSError as error:
        raise NotFoundError(f"the image {path} cannot be read: {error.strerror}", "check its permissions") from error
    try:
        kind, width, height = parse_image(data)
    except UsageError as error:
        raise UsageError(f"{absolute.name} {error.message}", error.hint) from error
    return Image(str(absolute), kind, width, height, len(data))


def read_images(paths: Sequence[Path | str] | None) -> tuple[Image, ...]:
    """Read all images of a message; raises as read_image, and UsageError for too many."""
    if len(paths or ()) > MAX_IMAGES:
        raise UsageError(f"{len(paths or ())} images are too many: at most {MAX_IMAGES} go with one message")
    return tuple(map(read_image, paths or ()))


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise UsageError(f"{path.name} is a directory, not an image", "give the path of an image")
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise UsageError(f"{path.name} is not an ordinary file", "give the path of an image")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UsageError(
            f"{path.name} has {format_bytes(size)}: images of at most {format_bytes(MAX_BYTES)} are read", "shrink it"
        )
    return path.read_bytes()


def parse_image(data: bytes) -> tuple[str, int, int]:
    """Return format, width and height of an image's bytes; raises UsageError, in words that follow its name. Pure."""
    if not data:
        raise UsageError("is empty", "give the path of an image")
    try:
        found = _by_format(data)
    except (struct.error, IndexError):
        raise UsageError("is no whole image", "it may be damaged: make it again") from None
    if found is None:
        known = next((name for start, name in _OTHERS if data.startswith(start)), None)
        raise UsageError(
            "is no image" if known is None else f"is {known}, which llama.cpp does not read",
            _HINT if known is None else f"save it as PNG: {_HINT}",
        )
    kind, width, height = found
    if width < 1 or height < 1:
        raise UsageError(f"is {kind} without a pixel", "it may be damaged: make it again")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UsageError(f"has {width:,} x {height:,} pixels: at most {MAX_PIXELS >> 20} million are read", "shrink it")
    return found


def _by_format(data: bytes) -> tuple[str, int, int] | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ("PNG", *struct.unpack_from(">II", data, 16))
    if data.startswith((b"GIF87a", b"GIF89a")):
        return ("GIF", *struct.unpack_from("<HH", data, 6))
    if data.startswith(b"BM") and struct.unpack_from("<I", data, 14)[0] >= 40:
        width, height = struct.unpack_from("<ii", data, 18)
        return "BMP", width, abs(height)  # a negative one is counted from the top
    return _jpeg(data) if data.startswith(b"\xff\xd8\xff") else None


def _jpeg(data: bytes) -> tuple[str, int, int]:
    """Go from marker to marker until the one with the size (ITU T.81, B.2.2)."""
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1
        if data[at] != 0xFF:
            raise IndexError
        marker = data[at + 1]
        if marker in _SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return "JPEG", width, height
        at += 2 if marker in _ALONE else 2 + struct.unpack_from(">H", data, at + 2)[0]
