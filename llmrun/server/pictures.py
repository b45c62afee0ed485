"""Images that came with a request, in files for as long as it is answered: the engine reads them from there."""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from llmrun.errors import UsageError
from llmrun.images import MAX_BYTES, MAX_IMAGES, parse_image
from llmrun.units import format_bytes

Keep = Callable[[str], str]  # an image in base64 to the path of its file


class Pictures:
    """A folder of this user alone with the images of one request; it is made with the first, and goes at the end."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def __enter__(self) -> Pictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def keep(self, text: str) -> str:
        """Put an image in base64 into a file and return its path; raises UsageError for what is no image."""
        data = image_in(text)
        if self._count == MAX_IMAGES:
            raise UsageError(f"there are too many images: at most {MAX_IMAGES} go with one request")
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="llmrun-")
        path = Path(self._folder.name) / f"{self._count}.image"
        path.write_bytes(data)
        self._count += 1
        return str(path)


def image_in(text: str) -> bytes:
    """Return the bytes of an image in base64; raises UsageError for what is none, or is too large."""
    if len(text) > (MAX_BYTES + 2) // 3 * 4:
        raise UsageError(f"an image is too large: those of at most {format_bytes(MAX_BYTES)} are read", "shrink it")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("an image is not in base64", "only images that come with the request are read") from error
    try:
        parse_image(data)
    except UsageError as error:
        raise UsageError(f"an image {error.message}", error.hint) from error
    return data
