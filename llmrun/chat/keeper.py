"""What is kept of a chat: the words in a store, and the engine's memory of them in a vault, so that both come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from llmrun.chat.answering import Answered
from llmrun.chat.conversation import Conversation
from llmrun.chat.kept_model import KeptModel as KeptModel
from llmrun.engine.answering import AnsweringEngine
from llmrun.errors import HistoryError, NotFoundError
from llmrun.history.record import Figure, Role, Saved, Setting, Summary, Turn
from llmrun.history.store import Store
from llmrun.message import Message
from llmrun.report import usage_figures
from llmrun.settings import KV_TYPES, MAX_N_CTX
from llmrun.states import Vault

BROKEN_OFF = "broken off"  # the finish reason of an answer whose engine was lost
# Among the settings of a kept conversation
_N_DROPPED, _SUMMARY = "n_dropped", "summary"
_N_CTX, _TYPE_KV = "n_ctx", "type_kv"


@dataclass(slots=True)
class Keeper:
    """Keeps one conversation after the other. vault: None where no state is kept; model: asked whenever it matters.

    is_kept: whether any of it is there after the chat.
    """

    store: Store
    vault: Vault | None
    model: Callable[[], KeptModel]
    is_kept: bool = True
    id: str | None = None
    _turns: list[Turn] = field(default_factory=list)
    _system: str | None = None
    _settings: dict[str, Setting] = field(default_factory=dict)
    _model: str = ""

    def answered(self, conversation: Conversation, answered: Answered) -> None:
        """Keep the last question and its answer; what was said before, if that has changed since."""
        reason, usage = answered.finish_reason, usage_figures(answered.usage)
        self._add(conversation, reason, usage)

    def broke_off(self, conversation: Conversation) -> None:
        """Keep the last question and as much of its answer as there is."""
        self._add(conversation, BROKEN_OFF, {})

    def _add(self, conversation: Conversation, finish_reason: str, usage: Mapping[str, Figure]) -> None:
        *before, question, answer = conversation.turns
        told = replace(_turn(answer), model=self.model().name, finish_reason=finish_reason, usage=usage)
        said = (_turn(question), told)
        self._begin(conversation)
        assert self.id is not None
        if len(self._turns) > len(before):  # asked again
            del self._turns[len(before) :]
            self._turns += said
            self.store.replace_turns(self.id, tuple(self._turns))
        else:
            self._turns += said
            self.store.add(self.id, *said)
        self._keep_rest(conversation)

    def rewritten(self, conversation: Conversation) -> None:
        """Keep that turns were taken back, or the system message is another one."""
        if self.id is None:
            return
        if len(self._turns) > len(conversation.turns):
            del self._turns[len(conversation.turns) :]
            self.store.replace_turns(self.id, tuple(self._turns))
        self._keep_rest(conversation)

    def begin_anew(self) -> None:
        """Let the next answer begin another conversation; this one stays as it is."""
        self.id, self._turns, self._system, self._settings = None, [], None, {}

    def name(self, name: str, conversation: Conversation) -> None:
        """Give the conversation a name to find it by; raises UsageError for one that is taken or can be none."""
        self._begin(conversation)
        assert self.id is not None
        self.store.rename(self.id, name)

    def take_up(self, saved: Saved) -> Conversation:
        """Go on with a kept conversation, and return it."""
        self.id, self._turns, self._model = saved.id, list(saved.turns), saved.model
        self._system, self._settings = saved.system, dict(saved.settings)
        conversation = Conversation(saved.system)
        conversation.recall([_message(turn) for turn in saved.turns])
        n_dropped, summary = saved.settings.get(_N_DROPPED), saved.settings.get(_SUMMARY)
        if isinstance(n_dropped, int) and 0 <= n_dropped <= len(saved.turns):
            conversation.n_dropped = n_dropped
            conversation.summary = summary if isinstance(summary, str) else None
        return conversation

    def saved(self) -> Saved | None:
        """Return the conversation as it is kept, or would be; None where there is nothing of it yet."""
        if self.id is None or not self._turns:
            return None
        try:
            return self.store.find(self.id)
        except (HistoryError, NotFoundError):  # it could not be kept, or was removed: what was said is still here
            now, model = datetime.now(UTC), self.model()
            turns = tuple(replace(turn, at=turn.at or now) for turn in self._turns)
            return Saved(self.id, None, model.name, model.resolved, self._system, self._settings, now, now, turns)

    def kept(self, limit: int) -> tuple[Summary, ...]:
        """Return the conversations that are kept, the last one first."""
        return self.store.list(limit)

    def keep_state(self, engine: AnsweringEngine) -> None:
        """Keep what the engine has in memory of the conversation, if it is one that can be taken up again."""
        if self.vault is None or self.id is None:
            return
        if not self._turns or not self._is_stored(self.id):  # all of it was taken back, or removed meanwhile
            self.vault.forget(self.id)
        elif not engine.has_ended:
            self.vault.keep(engine, self.id, self.model().state_key)

    def restore_state(self, engine: AnsweringEngine) -> int:
        """Give the engine back what it had in memory of the conversation; returns tokens, 0 where it has to read."""
        if self.vault is None or self.id is None:
            return 0
        return self.vault.restore(engine, self.id, self.model().state_key)

    def _is_stored(self, key: str) -> bool:
        try:
            return self.store.find(key).id == key
        except (HistoryError, NotFoundError):
            return False

    def _begin(self, conversation: Conversation) -> None:
        if self.id is not None:
            return
        model = self.model()
        self.id = self.store.begin(model.name, conversation.system, model.resolved)
        self._system, self._model = conversation.system, model.name

    def _keep_rest(self, conversation: Conversation) -> None:
        """Keep what stands beside the turns, where it has changed."""
        assert self.id is not None
        if conversation.system != self._system:
            self._system = conversation.system
            self.store.set_system(self.id, self._system)
        model = self.model()
        settings: dict[str, Setting] = {_N_CTX: model.n_ctx, _TYPE_KV: model.type_kv}
        if conversation.n_dropped:
            settings |= {_N_DROPPED: conversation.n_dropped, _SUMMARY: conversation.summary}
        if settings != self._settings:
            self._settings = settings
            self.store.set_settings(self.id, settings)
        if model.name != self._model:
            self._model = model.name
            self.store.set_model(self.id, model.name, model.resolved)


def memory_of(saved: Saved) -> tuple[int | None, str | None]:
    """Return the tokens of context and the KV type that a kept conversation was answered with, None where unknown."""
    n_ctx, type_kv = saved.settings.get(_N_CTX), saved.settings.get(_TYPE_KV)
    known = type_kv if isinstance(type_kv, str) and type_kv in KV_TYPES else None
    return (n_ctx if isinstance(n_ctx, int) and 0 < n_ctx <= MAX_N_CTX else None), known


def _turn(message: Message) -> Turn:
    role: Role = "assistant" if message.role == "assistant" else "user"
    return Turn(role, message.content, message.thoughts, message.images)


def _message(turn: Turn) -> Message:
    return Message(turn.role, turn.content, turn.thoughts, turn.images)
