"""What a client asks of a model, whichever of the APIs it speaks."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmrun.engine.protocol import Grammar
from llmrun.message import Message, RawPrompt, Tool, ToolChoice
from llmrun.sampling import NO_PENALTIES, Penalties, SamplingWish


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for one or more answers; None is nothing wished.

    model: as the client named it, "" is the one that is there. raw: in the place of messages, and each of them is
    answered n times. think: one of thinking.WISHES; what comes nearest to it is done. logprobs: as of Generate.
    n: answers. keep_alive: seconds that the model is kept after it, see Fleet.
    """

    model: str
    messages: tuple[Message, ...] = ()
    raw: tuple[RawPrompt, ...] = ()
    sampling: SamplingWish = field(default_factory=SamplingWish)
    penalties: Penalties = NO_PENALTIES
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    think: str | None = None
    logprobs: int | None = None
    n: int = 1
    keep_alive: float | None = None
