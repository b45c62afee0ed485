"""Room for the next answer in a context that is full: never without a word, and as people want it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llmrun.chat.answering import stream_answer
from llmrun.chat.conversation import Conversation
from llmrun.console import Console
from llmrun.engine.answering import AnsweringEngine
from llmrun.engine.protocol import Generate
from llmrun.errors import ContextOverflowError
from llmrun.message import Message
from llmrun.sampling import Sampling

Choose = Callable[[str, Mapping[str, str]], str]

_CHOICES = {
    "d": "drop the oldest questions and answers, now and from here on",
    "s": "summarise the older half of it, in the model's own words",
    "n": "neither: take the question back",
}
_INSTRUCTION = (
    "Summarise our conversation so far in at most 150 words, so that it can be continued from the summary alone: what "
    "was asked, what was found out, what was decided. Write only the summary."
)
_MAX_SUMMARY = 400  # tokens


class QuestionWithdrawn(Exception):  # noqa: N818 (no error: a wish)
    """The user would rather take the question back."""


class RoomMaker:
    """Makes room, and remembers what was chosen from here on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drops = False

    def choose(
        self, conversation: Conversation, overflow: ContextOverflowError, engine: AnsweringEngine, ask: Choose | None
    ) -> str:
        """Return how room is to be made for the open question; ask: None where nobody is there, then the oldest go.

        Raises the overflow again where nothing that can go would help: the question is too long by itself.
        """
        alone = conversation.copy()
        alone.drop_oldest(len(alone.turns))
        if engine.info is not None and engine.count(alone.messages()).total >= engine.info.n_ctx:
            raise overflow
        key = "d" if self._drops or ask is None else ask(f"{overflow.message}.", _CHOICES)
        self._drops = self._drops or key == "d"
        return key

    def make_room(
        self, conversation: Conversation, overflow: ContextOverflowError, engine: AnsweringEngine, key: str
    ) -> None:
        """Shorten a conversation whose last message is the open question, as was chosen.

        Raises the overflow again where nothing but the question is left, QuestionWithdrawn where nothing is to go.
        """
        if not conversation.copy().drop_oldest():
            raise overflow
        match key:
            case "d":
                conversation.drop_oldest()
                self._console.notice(f"({overflow.message}: going on without the oldest question and its answer)")
            case "s":
                self._summarize(conversation, overflow, engine)
            case _:
                raise QuestionWithdrawn

    def _summarize(self, conversation: Conversation, overflow: ContextOverflowError, engine: AnsweringEngine) -> None:
        """Let the model summarise the older half; raises the overflow where it is stopped, or cannot."""
        turns = _older_half(conversation, engine)
        self._console.status(f"summarising {_turns_in_words(turns)}")
        n_ctx = engine.info.n_ctx if engine.info else 0
        request = Generate(
            (*conversation.beginning(turns).messages(), Message("user", _INSTRUCTION)),
            Sampling(temperature=0),
            max_tokens=max(16, min(_MAX_SUMMARY, n_ctx // 8)),
            variables=engine.info.thinking.least if engine.info else {},
        )
        try:
            answered = stream_answer(engine, request, self._console, show=False)
        except ContextOverflowError:
            raise ContextOverflowError(overflow.message, "too much to be summarised at once: drop it instead") from None
        summary = answered.text.strip()
        if answered.finish_reason == "cancelled" or not summary:
            raise overflow
        conversation.summarize_oldest(turns, summary)
        self._console.notice(f"({_turns_in_words(turns)} are now a summary: {summary})")


def _older_half(conversation: Conversation, engine: AnsweringEngine) -> int:
    """The number of the oldest turns that hold half of what is told and answered, by tokens; one at least."""
    told = conversation.turns[conversation.n_dropped : -1]
    tokens = engine.count(told).messages
    half, seen, turns = sum(tokens) / 2, 0, 0
    while seen < half and 2 * turns < len(tokens):
        seen += sum(tokens[2 * turns : 2 * turns + 2])
        turns += 1
    return max(1, turns)


def _turns_in_words(turns: int) -> str:
    return "the oldest question and its answer" if turns == 1 else f"the oldest {turns} questions and their answers"
