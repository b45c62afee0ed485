"""The families of APIs: each has paths of its own, and its own way to say that something went wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import Response

from llmrun.errors import ContextOverflowError, LLMRunError, NotFoundError
from llmrun.server.bodies import json_response


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, as an HTTP status and a message with its hint; retry_after: seconds, None where unknown.

    code: OpenAI's word for it, where it has one. param: the field of the request that it is about, where that is known.
    """

    status: int
    message: str
    retry_after: float | None = None
    code: str | None = None
    param: str | None = None


# A path of this machine: to a model's file, whatever blanks are in it, or to any file below two folders. The paths of
# endpoints are none.
_PATHS = re.compile(
    r"""(?<![^\s'"(`])(?:[A-Za-z]:)?[\\/](?!v1/|api/)(?:[^\n'"`]*?\.gguf\b|[^\s'"`():,]+[\\/][^\s'"`():,]+)"""
)


# OpenAI's words for what its clients tell apart
_CODES: dict[type[LLMRunError], tuple[str, str | None]] = {
    NotFoundError: ("model_not_found", "model"),  # nothing else is looked for by its name
    ContextOverflowError: ("context_length_exceeded", None),
}
_PROMPTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}  # others call theirs "input"


def problem_of(error: LLMRunError) -> Problem:
    """Return an error of ours as clients get it: files are named, and where they lie is nobody's business."""
    text = error.message if error.hint is None else f"{error.message} ({error.hint})"
    told = _PATHS.sub(lambda path: re.split(r"[\\/]", path[0])[-1], text)
    code, param = next((known for kind, known in _CODES.items() if isinstance(error, kind)), (None, None))
    return Problem(error.http_status, told, error.retry_after, code, param)


Shape = Callable[[Problem], dict[str, Any]]

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def openai_error(problem: Problem) -> dict[str, Any]:
    """Return it as OpenAI's API does."""
    kind = _OPENAI_TYPES.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}


def anthropic_error(problem: Problem) -> dict[str, Any]:
    """Return it as Anthropic's API does."""
    kind = _ANTHROPIC_TYPES.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": problem.message}}


def ollama_error(problem: Problem) -> dict[str, Any]:
    """Return it as Ollama's API does."""
    return {"error": problem.message}


def shape_of(path: str) -> Shape:
    """Return how the API that a path belongs to says what went wrong."""
    if path.startswith("/v1/messages"):
        return anthropic_error
    if path.startswith("/api/"):
        return ollama_error
    return openai_error


def response_of(problem: Problem, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer that says what went wrong, as the API of a path does."""
    response = json_response(shape_of(path)(problem), problem.status, dict(headers or {}))
    if problem.retry_after is not None:  # whole seconds, never too few
        response.headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    return response


def refusal_of(error: LLMRunError, path: str) -> Response:
    """Return the answer to a request that ended in an error of ours."""
    problem = problem_of(error)
    if isinstance(error, ContextOverflowError):
        problem = replace(problem, param=_PROMPTS.get(path, "input"))
    return response_of(problem, path)
