"""A conversation: the system message, and turns of question and answer. Knows nothing of engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmrun.message import Message

_SUMMARY_MARK = "What was said before, in short:"


@dataclass(slots=True)
class Conversation:
    """What has been said; a question waits for its answer until `reply` or `take_back`.

    n_dropped: so many of the oldest messages are not told to the model any more. summary: what they came to, in the
    model's words, which it reads after the system message in their place.
    """

    system: str | None = None
    n_dropped: int = 0
    summary: str | None = None
    _messages: list[Message] = field(default_factory=list)

    def ask(self, text: str, images: Sequence[str] = ()) -> None:
        """Add a question. images: paths of files that are shown with it."""
        self._messages.append(Message("user", text, images=tuple(images)))

    def reply(self, text: str, thoughts: str = "") -> None:
        """Add the answer to the last question, and what was thought before it."""
        self._messages.append(Message("assistant", text, thoughts))

    def take_back(self) -> None:
        """Remove the question that got no answer."""
        if self._messages and self._messages[-1].role == "user":
            self._messages.pop()

    def undo(self) -> Message | None:
        """Forget the last question with its answer, and return the question; None where there is none.

        Where that was not told any more, all that is left is told again: a summary would tell of it too.
        """
        asked = [index for index, message in enumerate(self._messages) if message.role == "user"]
        if not asked:
            return None
        question = self._messages[asked[-1]]
        del self._messages[asked[-1] :]
        if self.n_dropped > len(self._messages):
            self.n_dropped, self.summary = 0, None
        return question

    def clear(self) -> None:
        """Forget the turns and what they came to; the system message stays."""
        self._messages.clear()
        self.n_dropped, self.summary = 0, None

    def drop_oldest(self, turns: int = 1) -> bool:
        """Tell the model no more of the oldest turns; returns False when only the open question is left of them."""
        if len(self._messages) - self.n_dropped <= 1:
            return False
        self.n_dropped = min(self.n_dropped + 2 * turns, len(self._messages) - 1)
        return True

    def summarize_oldest(self, turns: int, summary: str) -> None:
        """Put a summary in the place of the oldest turns, and of an earlier summary."""
        self.drop_oldest(turns)
        self.summary = summary

    def recall(self, turns: Sequence[Message]) -> None:
        """Let these be all that was said: questions, each with its answer."""
        self._messages = list(turns)
        self.n_dropped, self.summary = 0, None

    def copy(self) -> Conversation:
        """Return the same conversation, to try something on."""
        return Conversation(self.system, self.n_dropped, self.summary, list(self._messages))

    def beginning(self, turns: int) -> Conversation:
        """Return the conversation as it was after so many of the turns that the model is told."""
        return Conversation(self.system, self.n_dropped, self.summary, self._messages[: self.n_dropped + 2 * turns])

    @property
    def turns(self) -> tuple[Message, ...]:
        """Questions and answers, in their order, told to the model or not."""
        return tuple(self._messages)

    @property
    def last_answer(self) -> str | None:
        """The last answer, None before the first."""
        return next((m.content for m in reversed(self._messages) if m.role == "assistant"), None)

    def messages(self) -> tuple[Message, ...]:
        """Return what the model is told."""
        said = [self.system] if self.system else []
        said += [f"{_SUMMARY_MARK}\n{self.summary}"] if self.summary else []
        first = (Message("system", "\n\n".join(said)),) if said else ()
        return (*first, *self._messages[self.n_dropped :])
