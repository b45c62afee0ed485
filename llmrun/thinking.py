"""Whether a model thinks before it answers: what its chat template can set, what was wished, and what follows.

Knows templates only by what was found out about them, and the machine only by the speed that was predicted for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmrun.errors import UsageError
from llmrun.units import format_seconds

Variable = str | bool | int
Variables = Mapping[str, Variable]

WISHES = ("on", "off", "low", "medium", "high")

# What a thought is assumed to take before the answer begins, tokens: a round figure for everyday questions to models of
# Qwen3's kind, which write some hundred tokens on "hello" and thousands on a problem. An assumption, not a measurement.
THOUGHT_TOKENS = 600
PATIENCE = 30.0  # seconds before the first word of an answer that nobody asked to be thought over
ENOUGH_SPEED = THOUGHT_TOKENS / PATIENCE  # tokens a second from which a model may think unasked: 20


@dataclass(frozen=True, slots=True)
class Thinking:
    """What a model can do about reasoning.

    can_think: it may write thoughts before its answer. choices: for each word of WISHES that its template knows, the
    variables that set it; empty where the template decides alone. default: the word for what it does unasked, of those
    and of "on" and "off".
    """

    can_think: bool = False
    choices: dict[str, dict[str, Variable]] = field(default_factory=dict)
    default: str = "off"

    @property
    def words(self) -> tuple[str, ...]:
        """The words that can be chosen, in the order of WISHES."""
        return tuple(word for word in WISHES if word in self.choices)

    @property
    def least(self) -> Variables:
        """What makes it think as little as it can, for what need not be thought over."""
        return next((self.choices[word] for word in ("off", "low") if word in self.choices), {})

    @property
    def variables(self) -> tuple[str, ...]:
        """The template's own names for what the words set."""
        return tuple(sorted({name for settings in self.choices.values() for name in settings}))


@dataclass(frozen=True, slots=True)
class ThinkingChoice:
    """What was chosen: the word for it, the variables for Generate, and a notice where it was not asked for."""

    word: str
    variables: Variables = field(default_factory=dict)
    notice: str | None = None


def choose_thinking(wish: str | None, thinking: Thinking, model: str, speed: float | None) -> ThinkingChoice:
    """Choose how a model thinks: as wished, else as its template has it, else less where the machine is slow.

    speed: predicted tokens a second of writing, None where unknown. Raises UsageError, by the names of the model and
    of its template's variables, for a wish that the template cannot fulfil.
    """
    if wish is not None:
        return ThinkingChoice(wish, wished_variables(wish, thinking, model))
    if not thinking.can_think or thinking.default == "off" or speed is None or speed >= ENOUGH_SPEED:
        return ThinkingChoice(thinking.default)
    wait = format_seconds(THOUGHT_TOKENS / speed)
    for word in ("off", "low"):
        if word == thinking.default:
            break
        if word in thinking.choices:
            return ThinkingChoice(word, thinking.choices[word], _less_notice(word, wait, thinking))
    return ThinkingChoice(thinking.default, notice=f"this model may think for about {wait} before an answer")


def wished_variables(wish: str, thinking: Thinking, model: str) -> Variables:
    """Return what the template must be told for a word of WISHES; raises UsageError where it has nothing for it."""
    if wish not in WISHES:
        raise UsageError(f"--think is {wish!r}", f"it can be {_listed(WISHES)}")
    if wish in thinking.choices:
        return thinking.choices[wish]
    if thinking.choices:
        raise UsageError(
            f"--think {wish}: the template of {model} has only {' and '.join(thinking.variables)}",
            f"it knows --think {_listed(thinking.words)}",
        )
    what = "always thinks" if thinking.can_think else "does not think"
    raise UsageError(f"{model} {what}: no enable_thinking or reasoning_effort in its template", "leave --think out")


def _less_notice(word: str, wait: str, thinking: Thinking) -> str:
    more = "on" if "on" in thinking.choices else thinking.default
    what = "off: it" if word == "off" else f"{word}: more"
    return f"thinking is {what} would take about {wait} an answer (--think {more})"


def _listed(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
