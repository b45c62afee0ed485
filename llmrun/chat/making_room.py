"""Room for the next answer in a context that is full: never without a word, and as people want it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llmrun.chat.answering import stream_answer
from llmrun.chat.conversation import Conversation
from llmrun.console import Console
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Generate, Message
from llmrun.errors import ContextOverflowError
from llmrun.sampling import Sampling

_CHOICES = {
    "d": "drop the oldest questions and answers, now and from here on",
    "s": "summarise the older half, in the model's own words",
    "n": "neither: take the question back",
}
_INSTRUCTION = (
    "Summarise our conversation so far in at most 150 words, so that it can be continued from the summary alone: what "
    "was asked, what was found out, what was decided. Write only the summary."
)
_MAX_SUMMARY = 400  # tokens


class RoomMaker:
    """Makes room. choose: asks a question that one key answers; None where nobody is there: then the oldest go."""

    def __init__(self, choose: Callable[[str, Mapping[str, str]], str] | None, console: Console) -> None:
        self._choose = choose
        self._console = console
        self._drops = choose is None

    def make_room(self, conversation: Conversation, overflow: ContextOverflowError, engine: Engine) -> None:
        """Shorten a conversation whose last message is the open question, as the user chooses.

        Raises the overflow again where nothing but the question is left, or the user wants nothing gone.
        """
        if not conversation.copy().drop_oldest():
            raise overflow
        key = "d" if self._drops or self._choose is None else self._choose(f"{overflow.message}.", _CHOICES)
        match key:
            case "d":
                self._drops = True
                conversation.drop_oldest()
                self._console.notice(f"({overflow.message}: going on without the oldest question and its answer)")
            case "s":
                self._summarize(conversation, overflow, engine)
            case _:
                raise ContextOverflowError(overflow.message, "/new begins anew, /context shows what fills it")

    def _summarize(self, conversation: Conversation, overflow: ContextOverflowError, engine: Engine) -> None:
        """Let the model summarise the older half; raises the overflow where it is stopped, or has nothing to say."""
        answered_turns = conversation.n_told - 1
        turns = (answered_turns + 1) // 2
        self._console.status(f"summarising {turns} of {answered_turns} questions and answers")
        n_ctx = engine.info.n_ctx if engine.info else 0
        request = Generate(
            (*conversation.beginning(turns).messages(), Message("user", _INSTRUCTION)),
            Sampling(temperature=0),
            max_tokens=max(16, min(_MAX_SUMMARY, n_ctx // 8)),
        )
        try:
            answered = stream_answer(engine, request, self._console, show=False)
        except ContextOverflowError:
            raise overflow from None
        summary = answered.text.strip()
        if answered.finish_reason == "cancelled" or not summary:
            raise overflow
        conversation.summarize_oldest(turns, summary)
        self._console.notice(f"(the oldest {turns} questions and answers are now a summary: {summary})")
