"""Images that come inside requests: files for as long as the request lasts, which the worker can then read."""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from pathlib import Path
from types import TracebackType

from llmrun.errors import UsageError
from llmrun.images import MAX_BYTES, MAX_IMAGES, parse_image
from llmrun.units import format_bytes

_DATA_URL = re.compile(r"data:[^,;]*(?:;[^,;]*)*;base64,", re.IGNORECASE)


class ImageFolder:
    """A place for the images of one request, made with the first of them and gone at the end of the context."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def __enter__(self) -> ImageFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def keep(self, data: bytes) -> str:
        """Write an image to a file of its own and return the path; raises UsageError for none, or one too many."""
        if self._count >= MAX_IMAGES:
            raise UsageError(f"at most {MAX_IMAGES} images go with one request")
        try:
            parse_image(data)
        except UsageError as error:
            raise UsageError(f"image {self._count + 1} {error.message}", error.hint) from error
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="llmrun-images-")  # of this user alone
        path = Path(self._folder.name) / str(self._count)
        path.write_bytes(data)
        self._count += 1
        return str(path)


def parse_data_url(url: str) -> bytes:
    """Return what a data URL holds; raises UsageError for every other URL, and for no Base64. Pure."""
    head = _DATA_URL.match(url[:256])
    if head is None:
        what = url.partition(":")[0][:16] if ":" in url[:16] else "this"
        raise UsageError(
            f"the image is no data URL in Base64 but {what!r}: nothing is fetched for a request",
            "send it as data:image/png;base64,…",
        )
    return parse_base64(url[head.end() :])


def parse_base64(text: str) -> bytes:
    """Return the bytes of an image that was written in Base64; raises UsageError for what is none, or too large."""
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise UsageError(f"the image is too large: images of at most {format_bytes(MAX_BYTES)} are read", "shrink it")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"the image is no Base64: {error}") from error
