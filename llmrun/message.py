"""What a conversation is made of, as frozen values: messages, and the tools a model may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to be called; parameters: the JSON schema of its arguments, as text."""

    name: str
    description: str
    parameters: str


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether a tool must be called, and which: name is the only one that may be. parallel: more than one at once."""

    required: bool = False
    name: str | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asked for; arguments: a JSON object, as text. id: what its result refers to."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; role is "system", "user", "assistant" or "tool".

    thoughts: the reasoning that came before an answer; the template decides whether the model is shown it again.
    images: paths of the files of images that come before the text. calls: what an assistant asked to be called.
    call_id: of a tool's message, the call that it is the result of; name: the tool's.
    """

    role: str
    content: str
    thoughts: str = ""
    images: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """Text to go on with as it is, without a chat template; suffix: what comes after the gap that is to be filled.

    tokens: in the place of the text, the model's own.
    """

    text: str
    suffix: str | None = None
    tokens: tuple[int, ...] = ()
