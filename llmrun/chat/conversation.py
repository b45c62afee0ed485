"""A conversation: the system message, and turns of question and answer. Knows nothing of engines."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmrun.engine.protocol import Message


@dataclass(slots=True)
class Conversation:
    """What has been said; `question` waits for its answer until `reply` or `take_back`."""

    system: str | None = None
    _messages: list[Message] = field(default_factory=list)

    def ask(self, text: str) -> None:
        """Add a question."""
        self._messages.append(Message("user", text))

    def reply(self, text: str) -> None:
        """Add the answer to the last question."""
        self._messages.append(Message("assistant", text))

    def take_back(self) -> None:
        """Remove the question that got no answer."""
        if self._messages and self._messages[-1].role == "user":
            self._messages.pop()

    def clear(self) -> None:
        """Forget the turns; the system message stays."""
        self._messages.clear()

    def drop_oldest(self) -> bool:
        """Forget the oldest question with its answer; returns False when only the open question is left."""
        if len(self._messages) <= 1:
            return False
        del self._messages[:2]
        return True

    def copy(self) -> Conversation:
        """Return the same conversation, to try something on."""
        return Conversation(self.system, list(self._messages))

    def messages(self) -> tuple[Message, ...]:
        """Return all of it for the engine."""
        first = (Message("system", self.system),) if self.system else ()
        return (*first, *self._messages)
