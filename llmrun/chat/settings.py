"""How answers are made in a chat, and how a person changes that with /set. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmrun.engine.protocol import Grammar, ModelInfo
from llmrun.errors import UsageError
from llmrun.sampling import RANGES, Sampling, SamplingWish, choose_sampling
from llmrun.thinking import ThinkingChoice, choose_thinking


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How answers are made. origin: where each sampling setting came from ("user", "model" or "default").

    think: what the user said about thinking, None is nothing; thinking: what that is for the model that answers.
    """

    sampling: Sampling
    origin: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    think: str | None = None
    thinking: ThinkingChoice = field(default_factory=lambda: ThinkingChoice("off"))

    def for_model(self, info: ModelInfo, speed: float | None) -> AnswerSettings:
        """Return the same for another model: what the user said stays, the rest is that model's.

        speed: tokens a second that it is predicted to write. What was said of thinking is forgotten where that model
        knows nothing of it.
        """
        said = {name: value for name, value in asdict(self.sampling).items() if self.origin.get(name) == "user"}
        sampling, origin = choose_sampling(SamplingWish(**said), info.sampling)
        changed = replace(self, sampling=sampling, origin=origin)
        try:
            return changed.with_thinking(self.think, info, speed)
        except UsageError:
            return changed.with_thinking(None, info, speed)

    def with_thinking(self, think: str | None, info: ModelInfo, speed: float | None) -> AnswerSettings:
        """Return the same with another wish about thinking; raises UsageError where the model cannot fulfil it."""
        return replace(self, think=think, thinking=choose_thinking(think, info.thinking, info.name, speed))

    def described(self) -> str:
        """Return every sampling setting with its value and where it is from, in one line."""
        return ", ".join(
            f"{name} {'random' if value is None else value} ({self.origin.get(name, 'default')})"
            for name, value in asdict(self.sampling).items()
        )


@dataclass(frozen=True, slots=True)
class _Setting:
    """What /set can change. field: of Sampling, or "max_tokens"; whole: whether it is a whole number.

    unset: the word that means None, where that is allowed.
    """

    field: str
    example: str
    whole: bool = False
    unset: str | None = None


SETTINGS: Mapping[str, _Setting] = {
    "temp": _Setting("temperature", "/set temp 0.2"),
    "top-k": _Setting("top_k", "/set top-k 40", whole=True),
    "top-p": _Setting("top_p", "/set top-p 0.9"),
    "min-p": _Setting("min_p", "/set min-p 0.05"),
    "repeat-penalty": _Setting("repeat_penalty", "/set repeat-penalty 1.1"),
    "seed": _Setting("seed", "/set seed 7, or /set seed random", whole=True, unset="random"),
    "max-tokens": _Setting("max_tokens", "/set max-tokens 200, or /set max-tokens none", whole=True, unset="none"),
}


THINK = "think"  # set by `with_thinking`, because it is the model's to allow
SETTING_NAMES = (*SETTINGS, THINK)


def parse_setting(settings: AnswerSettings, name: str, text: str) -> AnswerSettings:
    """Return the settings with one of them as it was typed; raises UsageError for what is not there, or cannot be."""
    known = SETTINGS.get(_known_name(name))
    if known is None:
        close = difflib.get_close_matches(_known_name(name), SETTING_NAMES, n=1)
        raise UsageError(f"there is no setting {name}", f"did you mean {close[0]}?" if close else _all_names())
    value = _parse_value(known, name, text)
    if known.field == "max_tokens":
        if value is not None and value < 1:
            raise UsageError(f"{name} is {text}, and must be at least 1")
        return replace(settings, max_tokens=value)
    origin = {**settings.origin, known.field: "user"}
    changed: Any = {known.field: value}
    return replace(settings, sampling=replace(settings.sampling, **changed), origin=origin)


def setting_lines(settings: AnswerSettings) -> list[str]:
    """Return every setting with its value and where it is from, as lines to read."""
    values = asdict(settings.sampling) | {"max_tokens": settings.max_tokens}
    return [
        f"{name:<14} {_shown(values[known.field], known)}" + _origin(settings.origin.get(known.field))
        for name, known in SETTINGS.items()
    ] + [f"{THINK:<14} {settings.thinking.word}"]


def _parse_value(known: _Setting, name: str, text: str) -> Any:
    if known.unset is not None and text.lower() == known.unset:
        return None
    try:
        value = int(text) if known.whole else float(text)
    except ValueError as error:
        kind = "a whole number" if known.whole else "a number"
        raise UsageError(f"{name} is {kind}, not {text}", f"for example {known.example}") from error
    low, high = RANGES.get(known.field, (value, value))
    if not low <= value <= high:
        limits = f"{low:,} and {high:,}" if known.whole else f"{low:g} and {high:g}"
        raise UsageError(f"{name} is {text}, and must lie between {limits}")
    return value


def _known_name(name: str) -> str:
    usual = name.lower().replace("_", "-")
    return {"temperature": "temp"}.get(usual, usual)


def _all_names() -> str:
    return "there are " + ", ".join(SETTING_NAMES)


def _shown(value: float | None, known: _Setting) -> str:
    return f"{value:g}" if value is not None else known.unset or "none"


def _origin(origin: str | None) -> str:
    return f" ({origin})" if origin else ""
