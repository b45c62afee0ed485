"""The chat: messages in, answers out, until one side leaves. What went wrong is said, and the chat goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

from llmrun.chat.answering import Answered, stream_answer
from llmrun.chat.commands import LeaveChat, run_command
from llmrun.chat.conversation import Conversation
from llmrun.console import Console
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Generate, Usage
from llmrun.errors import ContextOverflowError, LLMRunError
from llmrun.report import ending_note, usage_figures, usage_lines
from llmrun.sampling import Sampling

_ROOM = 256  # tokens a full conversation leaves for the next answer


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How answers are made in this chat. origin: where each sampling setting came from."""

    sampling: Sampling
    origin: dict[str, str]
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(slots=True)
class Talk:
    """A chat with one model. restart: makes a new engine after the old one died; on_answer: hears of each answer."""

    engine: Engine
    restart: Callable[[], Engine]
    settings: AnswerSettings
    console: Console
    conversation: Conversation = field(default_factory=Conversation)
    as_json: bool = False
    forgiving: bool = True
    last: Answered | None = None
    on_answer: Callable[[Usage], None] = lambda _: None

    def run(self, messages: Iterable[str]) -> None:
        """Answer messages until they end or the user leaves.

        An error is shown and the chat goes on; if not `forgiving` (nobody is there to react) it is raised.
        """
        for text in messages:
            try:
                if text.startswith("/") and "\n" not in text:
                    run_command(text, self.conversation, self.console, self.stats)
                else:
                    self._answer(text)
            except LeaveChat:
                return
            except LLMRunError as error:
                if not self.forgiving:
                    raise
                self._survive(error)

    def was_stopped(self) -> bool:
        """Whether the user stopped the last answer."""
        return self.last is not None and self.last.finish_reason == "cancelled"

    def stats(self) -> list[str]:
        """Return lines about the last answer and the settings."""
        lines = usage_lines(self.last.usage) if self.last else ["no answer yet"]
        wanted = asdict(self.settings.sampling)
        chosen = ", ".join(
            f"{name} {'random' if value is None else value} ({self.settings.origin[name]})"
            for name, value in wanted.items()
        )
        return [*lines, f"sampling {chosen}"]

    def _answer(self, text: str) -> None:
        self.conversation.ask(text)
        try:
            self.last = self._answer_what_fits()
        except BaseException:
            self.conversation.take_back()
            raise
        self.conversation.reply(self.last.text)
        if self.as_json:
            self.console.data(_as_data(self.last))
        else:
            self.console.end_answer()
            if note := ending_note(self.last.finish_reason):
                self.console.notice(f"({note})")
        self.on_answer(self.last.usage)

    def _answer_what_fits(self) -> Answered:
        """Answer; where the conversation has outgrown the context, say so and drop its oldest turns first.

        A question that does not fit even alone is an error, and costs no turn.
        """
        kept = self.conversation.copy()
        while True:
            more = kept.copy().drop_oldest()
            try:
                answered = stream_answer(self.engine, self._request(kept, more), self.console, show=not self.as_json)
            except ContextOverflowError as overflow:
                if not kept.drop_oldest():
                    raise
                self.console.notice(f"({overflow.message}: going on without the oldest question and its answer)")
            else:
                self.conversation = kept
                return answered

    def _request(self, conversation: Conversation, droppable: bool) -> Generate:
        """Ask for room to answer while there is something that can be dropped for it."""
        settings = self.settings
        n_ctx = self.engine.info.n_ctx if self.engine.info else 0
        room = min(settings.max_tokens or _ROOM, _ROOM, n_ctx // 4) if droppable else 1
        return Generate(conversation.messages(), settings.sampling, settings.max_tokens, settings.stop, max(1, room))

    def _survive(self, error: LLMRunError) -> None:
        self.console.error(error)
        if self.engine.has_ended:
            self.console.notice("(starting the engine again; the conversation is kept, ask again)")
            self.engine.close()
            self.engine = self.restart()


def _as_data(answered: Answered) -> dict[str, object]:
    return {
        "answer": answered.text,
        "finish_reason": answered.finish_reason,
        "usage": usage_figures(answered.usage),
    }
