"""The chat: messages in, answers out, until one side leaves. What went wrong is said, and the chat goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from llmrun.chat.answering import Answered, show_answer, stream_answer
from llmrun.chat.beside import Beside
from llmrun.chat.commands.command import LeaveChat
from llmrun.chat.commands.table import run_command
from llmrun.chat.context_view import is_nearly_full
from llmrun.chat.conversation import Conversation
from llmrun.chat.exact import exact_command
from llmrun.chat.hands import Hands
from llmrun.chat.keeper import Keeper
from llmrun.chat.making_room import QuestionWithdrawn, RoomMaker
from llmrun.chat.settings import AnswerSettings
from llmrun.console import Console
from llmrun.engine.answering import AnsweringEngine
from llmrun.engine.protocol import Generate, ModelInfo, Usage
from llmrun.errors import ContextOverflowError, LenderLostError, LLMRunError, ServerGoneError, UsageError
from llmrun.history.record import Saved
from llmrun.message import Message
from llmrun.reference import GUIDE
from llmrun.report import ending_note, usage_figures, usage_lines

_ROOM = 256  # tokens a full conversation leaves for the next answer
_START_STOPPED = "(stopped: the next question, or /retry, starts it again)"


class StartStopped(Exception):  # noqa: N818 (no error: a wish)
    """The user would not wait until the engine has started."""


@dataclass(slots=True)
class Talk:
    """A chat with a model.

    restart: makes a new engine after the old one died. on_answer: hears of each answer. draft: what the next line to be
    typed begins with.
    """

    engine: AnsweringEngine
    restart: Callable[[], AnsweringEngine]
    settings: AnswerSettings
    console: Console
    conversation: Conversation = field(default_factory=Conversation)
    hands: Hands = field(default_factory=Hands)
    keeper: Keeper | None = None
    as_json: bool = False
    forgiving: bool = True
    beside: Beside = field(default_factory=Beside)
    last: Answered | None = None
    on_answer: Callable[[Usage], None] = lambda _: None
    draft: str = ""
    first_system: str | None = field(init=False)
    _rooms: RoomMaker = field(init=False)
    _told_full: bool = False
    _told_exact: set[str] = field(default_factory=set)
    _gone: AnsweringEngine | None = None  # the engine, where it has ended and is started again when it is needed
    _unanswered: Message | None = None  # what stands in the place of an answer that broke off before its first word

    def __post_init__(self) -> None:
        """Remember how the chat began."""
        self.first_system = self.conversation.system
        self._rooms = RoomMaker(self.console)

    def run(self, messages: Iterable[str]) -> None:
        """Answer messages until they end or the user leaves.

        An error is shown and the chat goes on; if not `forgiving` (nobody is there to react) it is raised.
        """
        for text in messages:
            try:
                if text.startswith("/") and "\n" not in text:
                    run_command(self, text)
                else:
                    self.ask(text)
            except LeaveChat:
                return
            except QuestionWithdrawn:
                self._give_back(text)
                self.console.notice("(taken back: /new begins anew, /context shows what fills the context)")
            except StartStopped:
                self._give_back(text)
                self.console.notice(_START_STOPPED)
            except LLMRunError as error:
                if not self.forgiving:
                    raise
                if self.engine.has_ended and not isinstance(error, LenderLostError):  # then there is /retry
                    self._give_back(text)
                self._survive(error)

    def _give_back(self, text: str) -> None:
        """Let the next line begin with a question that was not answered; a command is forgotten."""
        self.draft = "" if text.startswith("/") else text

    def ask(self, text: str) -> None:
        """Answer a question; where that fails the question is taken back, and the error raised.

        Where a lender is lost to the engine meanwhile, what was said until then stays.
        """
        self._wake()
        if self.conversation.turns and self.conversation.turns[-1] is self._unanswered:
            self.conversation.undo()  # nothing had come of it, and something else is asked
        try:
            self._ask(self.beside.question(text), self.beside.images, keeps_half=True)
        except LLMRunError:
            if not self.beside.is_empty:  # else a file that is too long would be in the way of every other question
                self.console.notice("(the files are not attached any more)")
            raise
        finally:
            self.beside.clear()

    def _ask(self, text: str, images: Sequence[str], *, keeps_half: bool) -> None:
        """keeps_half: keep what was said until a lender was lost; else the question is taken back then too."""
        self.conversation.ask(text, images)
        try:
            self.last = self._answer_what_fits()
        except BaseException as error:
            if keeps_half and isinstance(error, LenderLostError):
                self._break_off(error)
            else:
                self.conversation.take_back()
            raise
        self.conversation.reply(self.last.text, self.last.thoughts)
        self._end_answer(self.last)
        self._tell_exact(text)

    def ask_again(self, text: str | None = None) -> None:
        """Answer the last question anew, or another one in its place; where that fails, all is as it was.

        Where a lender is lost meanwhile, half an answer takes the place of none, never that of an answer.
        """
        self._wake()
        before, settings = self.conversation.copy(), self.settings
        had_none = bool(before.turns) and before.turns[-1] is self._unanswered
        asked = self.conversation.undo()
        # the same seed would draw the same answer again
        self.settings = replace(settings, sampling=replace(settings.sampling, seed=None))
        try:
            self._ask(text or (asked.content if asked else ""), asked.images if asked else (), keeps_half=had_none)
        except BaseException as error:
            if not (had_none and isinstance(error, LenderLostError)):
                self.conversation = before
                if isinstance(error, LenderLostError) and error.said and not self.as_json:
                    self.console.notice("(this answer breaks off here; the one before it stays)")
            raise
        finally:
            self.settings = settings

    def go_on_with(self, name: str) -> None:
        """Take another model for the same conversation."""
        if self.hands.switch is None:
            raise UsageError("the model cannot be changed here", "name it when the chat begins: llmrun chat MODEL")
        self.engine = self.hands.switch(name, self.engine)
        self.settings = self.settings.for_model(self.model_info(), self.hands.speed())
        if self.settings.thinking.notice:
            self.console.say(f"note: {self.settings.thinking.notice}")
        self.last, self._told_full = None, False

    def check_typed(self, command: str, instead: str) -> None:
        """Raise UsageError for a command that no pipe may give: what comes through one need not be its user's own."""
        if not self.forgiving:
            raise UsageError(f"{command} is for a person at a terminal", instead)

    def can_see(self) -> bool:
        """Whether the model sees images, after it was loaded with what it needs for that, where it was not."""
        if not self.model_info().vision and self.hands.see is not None:
            self.engine = self.hands.see(self.engine)
        return self.model_info().vision

    def take_up(self, saved: Saved) -> None:
        """Go on with a conversation that was kept."""
        assert self.keeper is not None
        self.keeper.keep_state(self.engine)  # of the one that is left, before its memory is another's
        self.conversation = self.keeper.take_up(saved)
        self.last, self._told_full, self.draft = None, False, ""
        told = f"going on with {saved.name or saved.id}, {len(saved.turns)} messages"
        try:
            self.keeper.restore_state(self.engine)
        except LLMRunError as error:  # the state is gone then, and what it held is read again
            self._survive(error)
        if self.forgiving and not self.as_json:  # somebody is there to be reminded
            self.console.say(f"{told}; the last answer was:")
            show_answer(self.conversation.last_answer or "", self.console)
        else:
            self.console.say(told)

    def begin_anew(self) -> None:
        """Forget what belongs to the conversation that is over."""
        self._rooms = RoomMaker(self.console)
        if self.keeper is not None:
            self.keeper.begin_anew()
        self.last, self._told_full, self.draft = None, False, ""

    def was_rewritten(self) -> None:
        """Hear that what was said is no longer what it was."""
        if self.keeper is not None:
            self.keeper.rewritten(self.conversation)

    def was_stopped(self) -> bool:
        """Whether the user stopped the last answer."""
        return self.last is not None and self.last.finish_reason == "cancelled"

    def take_draft(self) -> str:
        """Return what the next line begins with, once."""
        draft, self.draft = self.draft, ""
        return draft

    def model_info(self) -> ModelInfo:
        """Return what is known of the loaded model."""
        assert self.engine.info is not None  # engines come loaded
        return self.engine.info

    def used_tokens(self) -> int:
        """Return how many tokens of the context the conversation takes, as of the last answer."""
        return self.last.usage.prompt_tokens + self.last.usage.completion_tokens if self.last else 0

    def stats(self) -> list[str]:
        """Return lines about the last answer and the settings."""
        lines = usage_lines(self.last.usage) if self.last else ["no answer yet"]
        return [*lines, f"sampling {self.settings.described()}"]

    def _end_answer(self, answered: Answered) -> None:
        if self.as_json:
            self.console.data(_as_data(answered))
        else:
            self.console.end_answer()
            if note := ending_note(answered.finish_reason):
                self.console.notice(f"({note})")
        self._tell_how_full()
        if self.keeper is not None:
            self.keeper.answered(self.conversation, answered)
        self.on_answer(answered.usage)

    def _tell_exact(self, question: str) -> None:
        """Say once what to type for what guide can only estimate."""
        if self.as_json or self.model_info().name != GUIDE:
            return
        command = exact_command(question)
        if command is not None and command not in self._told_exact:
            self._told_exact.add(command)
            self.console.aside(f"(the exact answer: {command})")

    def _tell_how_full(self) -> None:
        used, n_ctx = self.used_tokens(), self.model_info().n_ctx
        if self.forgiving and is_nearly_full(used, n_ctx) and not self._told_full:
            self._told_full = True
            self.console.notice(
                f"({used / n_ctx:.0%} of the context is used: /context shows by what, /new begins anew)"
            )

    def _answer_what_fits(self) -> Answered:
        """Answer; where the conversation has outgrown the context, make room first, as the user wants it.

        A question that does not fit even alone is an error, and costs no turn.
        """
        kept, key = self.conversation.copy(), ""
        while True:
            more = kept.copy().drop_oldest()
            try:
                answered = stream_answer(self.engine, self._request(kept, more), self.console, show=not self.as_json)
            except ContextOverflowError as overflow:
                key = key or self._rooms.choose(kept, overflow, self.engine, self.hands.choose)
                self._rooms.make_room(kept, overflow, self.engine, key)
                self._told_full = False
            else:
                self.conversation = kept
                return answered

    def _request(self, conversation: Conversation, droppable: bool) -> Generate:
        """Ask for room to answer while there is something that can be dropped for it."""
        settings = self.settings
        n_ctx = self.engine.info.n_ctx if self.engine.info else 0
        room = min(settings.max_tokens or _ROOM, _ROOM, n_ctx // 4) if droppable else 1
        return Generate(
            conversation.messages(),
            settings.sampling,
            settings.max_tokens,
            settings.stop,
            max(1, room),
            shift=conversation.n_dropped > 0,
            grammar=settings.grammar,
            variables=settings.thinking.variables,
        )

    def _survive(self, error: LLMRunError) -> None:
        if isinstance(error, LenderLostError) and self.engine.has_ended and self.hands.without is not None:
            error.hint = None  # what can be done is said below
        self.console.error(error)
        if not self.engine.has_ended:
            return
        self.engine.close()
        if self._gone is self.engine or isinstance(error, LenderLostError):
            self._gone = self.engine
            self._offer(error.lenders if isinstance(error, LenderLostError) else ())
            return
        where = "loading the model here" if isinstance(error, ServerGoneError) else "starting the engine again"
        self.console.notice(f"({where}; the conversation is kept)")
        try:
            self._start_again()
        except StartStopped:
            self.console.notice(_START_STOPPED)

    def _offer(self, lenders: Sequence[str]) -> None:
        """Say how the model would run without lenders that are gone; the next question, or /retry, starts it so."""
        if self.hands.without is not None and (offer := self.hands.without(lenders)):
            self.console.notice(f"({offer})")

    def _wake(self) -> None:
        """Start the engine, where it has ended and was left so."""
        if self._gone is self.engine:
            self._start_again()
        self._gone = None

    def _start_again(self) -> None:
        """Start the engine, which has ended; raises StartStopped where the user would rather not wait for that."""
        self._gone = self.engine
        try:
            self.engine = self.restart()
        except KeyboardInterrupt:
            if not self.forgiving:
                raise
            raise StartStopped from None
        self._gone = None

    def _break_off(self, lost: LenderLostError) -> None:
        """Keep what was said of an answer, and its question, so that it can be asked for again."""
        self.conversation.reply(lost.said, lost.thoughts)
        self.last, self._unanswered = None, None if lost.said else self.conversation.turns[-1]
        if not lost.said:
            return
        if not self.as_json:
            self.console.notice("(the answer breaks off here)")
        if self.keeper is not None:
            self.keeper.broke_off(self.conversation)


def _as_data(answered: Answered) -> dict[str, object]:
    return {
        "answer": answered.text,
        "thoughts": answered.thoughts,
        "finish_reason": answered.finish_reason,
        "usage": usage_figures(answered.usage),
    }
