"""Bytes of tokens to text that may be shown: never half a character, half a mark or half a stop string. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from llmrun.worker.reasoning import CONTROL, Span, Splitter, held_length
from llmrun.worker.tools.finder import CallFinder


class StreamingText:
    """Takes pieces as they are generated and gives out the text that is certain, thoughts apart from the answer.

    What could still become a stop string is held back. `stopped` turns True when one is complete in the answer; it and
    everything after it is dropped, and `stopped_by` says which it was. Thoughts are not looked through: nobody who asks
    for an answer of one line means that its thoughts have only one; nor are calls of tools, which `finder` looks for in
    the answer. It is `stopped` too behind a call that none may follow. The work per piece does not grow with the
    answer.
    """

    def __init__(
        self, stop: Sequence[str] = (), splitter: Splitter | None = None, finder: CallFinder | None = None
    ) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(s for s in stop if s)
        self._splitter = splitter
        self._finder = finder
        self._held = ""
        self.stopped_by: str | None = None
        self._no_more_calls = False

    @property
    def stopped(self) -> bool:
        """Whether nothing that follows belongs to the answer."""
        return self.stopped_by is not None or self._no_more_calls

    @property
    def is_answering(self) -> bool:
        """Whether what comes next belongs to the answer, as far as can be known."""
        return self._splitter is None or self._splitter.is_answering

    @property
    def is_thinking(self) -> bool:
        """Whether a thought, or what leads from it to the answer, is being written."""
        return self._splitter is not None and self._splitter.is_thinking

    def split_no_more(self) -> None:
        """Take all that comes for the answer; only before anything came."""
        self._splitter = None

    def push(self, piece: bytes) -> list[Span]:
        """Take the bytes of one token and return the text that can be shown now."""
        text = self._decoder.decode(piece)
        return self._released(self._with_calls(self._split(text))) if text else []

    def finish(self) -> list[Span]:
        """Return what was held back, now that nothing follows; half a character becomes U+FFFD."""
        spans = self._split(self._decoder.decode(b"", final=True))
        if self._splitter is not None:
            spans += self._splitter.finish()
        released = self._released(self._with_calls(spans) + (self._finder.finish() if self._finder else []))
        if self._held and not self.stopped:
            released.append(Span(self._held, thought=False))
            self._held = ""
        return released

    def _split(self, text: str) -> list[Span]:
        if self._splitter is None:
            return [Span(text, thought=False)] if text else []
        return self._splitter.push(text)

    def _with_calls(self, spans: list[Span]) -> list[Span]:
        if self._finder is None:
            return spans
        found: list[Span] = []
        for span in spans:
            if span.thought:  # marks of calls mean nothing there
                found.append(Span(span.text.replace(CONTROL, ""), thought=True))
            else:
                found += self._finder.push(span.text)
        return found

    def _released(self, spans: Iterable[Span]) -> list[Span]:
        released = []
        for span in spans:
            if self.stopped:
                break
            text = span.text
            if self._stop and not span.thought and span.call is None:
                text = self._release(text)
            elif self._held:  # no stop string goes on behind a thought or a call
                released.append(Span(self._held, thought=False))
                self._held = ""
            if text or span.call:
                released.append(Span(text, span.thought, span.call))
        self._no_more_calls = self._finder is not None and self._finder.has_ended
        return released

    def _release(self, text: str) -> str:
        text = self._held + text
        found = [(at, s) for s in self._stop if (at := text.find(s)) >= 0]
        if found:
            at, self.stopped_by = min(found, key=lambda hit: hit[0])
            self._held = ""
            return text[:at]
        keep = max(held_length(text, s) for s in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]
