"""The clipboard: the system's, or that of the terminal a person sits at, which may be on another machine."""

from __future__ import annotations

import base64
from collections.abc import Callable

from llmrun.errors import UsageError

_MAX_BYTES = 100_000  # what terminals take of OSC 52 (xterm's limit); more is ignored, or cut


def copy_text(text: str, send: Callable[[str], None] | None) -> None:
    """Put a text into the system's clipboard, else hand it to the terminal for its own.

    send: writes a control sequence to the terminal; None where there is none. Raises UsageError where neither is there.
    """
    import pyperclip

    try:
        pyperclip.copy(text)
    except pyperclip.PyperclipException as error:
        data = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
        if send is None or len(data) > _MAX_BYTES:
            raise UsageError("there is no clipboard here", "xclip, xsel or wl-clipboard makes one on Linux") from error
        send(f"\x1b]52;c;{data}\x07")  # xterm's control sequences, "Manipulate Selection Data"
