"""Bytes of tokens to text that may be shown: never half a character, never half a stop string. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class StreamingText:
    """Takes pieces as they are generated and gives out the text that is certain.

    What could still become a stop string is held back. `stopped` turns True when one is complete; it and everything
    after it is dropped. The work per piece does not grow with the answer.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Take the bytes of one token and return the text that can be shown now."""
        return self._release(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what was held back, now that nothing follows; half a character becomes U+FFFD."""
        text = self._release(self._decoder.decode(b"", final=True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped or not self._stop:
            return "" if self.stopped else text
        text = self._held + text
        found = [at for at in (text.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(_held_length(text, s) for s in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _held_length(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that `stop` begins with."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
