"""A conversation as it is kept: its turns and what they were answered with and by. Pure values.

Knows what a conversation is called; must not know where it is kept.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from llmrun.errors import UsageError

Role = Literal["user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
Figure = int | float | None
Setting = str | int | float | bool | None

MAX_NAME = 60  # characters; a row of `llmrun history` still has room for it


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; role is "user" or "assistant".

    thoughts: the reasoning of an answer. images: paths of files that were shown. model: what answered, None is the
    conversation's own model. finish_reason, usage: as of the engine, by the names of `report.usage_figures`.
    at: when it was said (UTC), None is when it is kept.
    """

    role: str
    content: str
    thoughts: str = ""
    images: tuple[str, ...] = ()
    model: str | None = None
    finish_reason: str | None = None
    usage: Mapping[str, Figure] = field(default_factory=dict)
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """A conversation with all that was said.

    id: two words to say aloud; name: what the user called it. model: as the user named it; resolved: what that was, as
    owner/repo:quant or a path. settings: of sampling and thinking. created, updated: UTC.
    """

    id: str
    name: str | None
    model: str
    resolved: str | None
    system: str | None
    settings: Mapping[str, Setting]
    created: datetime
    updated: datetime
    turns: tuple[Turn, ...]

    @property
    def title(self) -> str:
        """Its name, else how it begins."""
        return self.name or next((turn.content for turn in self.turns if turn.content.strip()), self.id)


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation in a list. n_turns: messages of both sides; first: how the first of them begins."""

    id: str
    name: str | None
    model: str
    created: datetime
    updated: datetime
    n_turns: int
    first: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A conversation that was found, and the best place in it. role: whose words, None where its name was found."""

    summary: Summary
    role: str | None
    snippet: str


# Proquints: 16 bits as consonant, vowel, consonant, vowel, consonant (Wilkerson, arXiv:0901.4016)
_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"
_WORD = f"[{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}]"
_ID = re.compile(f"{_WORD}-{_WORD}")


def new_id() -> str:
    """Return an id of 32 random bits as two words: "lusab-babad"."""
    return f"{_word(secrets.randbits(16))}-{_word(secrets.randbits(16))}"


def _word(bits: int) -> str:
    return (
        _CONSONANTS[bits >> 12]
        + _VOWELS[bits >> 10 & 3]
        + _CONSONANTS[bits >> 6 & 15]
        + _VOWELS[bits >> 4 & 3]
        + _CONSONANTS[bits & 15]
    )


def is_id(text: str) -> bool:
    """Tell whether a text has the form of an id."""
    return _ID.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Return a name for a conversation, without blanks around it; raises UsageError for what can be none."""
    stripped = name.strip()
    if not stripped:
        raise UsageError("a conversation's name cannot be empty", "a name says what it is about: trip-to-rome")
    if len(stripped) > MAX_NAME or not stripped.isprintable():
        raise UsageError(f"a name is one line of at most {MAX_NAME} characters", "a shorter one: trip-to-rome")
    if is_id(stripped):
        raise UsageError(f"{stripped} looks like the id of a conversation", "a name of another form: trip-to-rome")
    return stripped
