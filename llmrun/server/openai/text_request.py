"""A request for completions of plain text: the body, and what is asked by it. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from llmrun.errors import UsageError
from llmrun.message import RawPrompt
from llmrun.server.ask import Ask
from llmrun.server.openai import parameters as p

DEFAULT_LENGTH = 16  # tokens, OpenAI's own: a text that is gone on with need never end
MAX_PROMPTS = 64

Token = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class TextRequest(p.Parameters, kw_only=True):
    """The body of a request for completions; prompt: texts, or the model's own tokens."""

    prompt: str | list[str | Token | list[Token]]
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=p.MAX_LOGPROBS)] | None = None


def parse_text(body: TextRequest) -> Ask:
    """Return what is asked; raises UsageError for what cannot be done."""
    p.check_parameters(body)
    prompts = _prompts(body)
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise UsageError(f"best_of is {body.best_of}: no more answers are written than n", "leave best_of out")
    if body.echo and body.logprobs is not None:
        raise UsageError("echo and logprobs are both there: the prompt has no probabilities", "leave one of them out")
    if body.echo and any(prompt.tokens for prompt in prompts):
        raise UsageError("echo is there and the prompt is of tokens", "leave echo out, or give the prompt as text")
    length = p.parse_length(body.max_tokens, DEFAULT_LENGTH)
    return Ask(
        body.model or "",
        raw=prompts,
        sampling=p.parse_sampling(body),
        penalties=p.parse_penalties(body),
        max_tokens=length,
        stop=p.parse_stop(body),
        grammar=p.parse_gbnf(body),
        logprobs=body.logprobs,
        n=body.n or 1,
    )


def _prompts(body: TextRequest) -> tuple[RawPrompt, ...]:
    """Return each prompt for itself; raises UsageError for none, too many, or texts and tokens in one list."""
    given = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    texts = [one for one in given if isinstance(one, str)]
    numbers = [one for one in given if isinstance(one, int)]
    lists = [one for one in given if isinstance(one, list)]
    if not given or [] in lists:
        raise UsageError("prompt is an empty list", "give a text, or tokens")
    if len(given) not in (len(texts), len(numbers), len(lists)):
        raise UsageError("prompt has texts and tokens in one list", "give one kind of them")
    if max(len(texts), len(lists)) > MAX_PROMPTS:
        raise UsageError(f"prompt has {len(given)} prompts: at most {MAX_PROMPTS} go with one request")
    suffix = body.suffix or None
    if numbers:
        return (RawPrompt("", suffix, tuple(numbers)),)
    return tuple(RawPrompt(text, suffix) for text in texts) + tuple(RawPrompt("", suffix, tuple(one)) for one in lists)
