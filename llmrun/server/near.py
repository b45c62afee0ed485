"""Paths that are none, and what was meant by them. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from llmrun.server.endpoint import Endpoint

Methods = Mapping[str, tuple[str, ...]]
"""The methods that each path takes."""

# Other names for what there is: llama-server's, those of OpenAI's older API, and what a wrong base URL makes of a path
_OTHERS = (
    (re.compile(r"/completion"), "/v1/completions"),
    (re.compile(r"(?:/v1)?/engines/.+/(completions|embeddings)"), r"/v1/\1"),
    (re.compile(r"(?:/api)?(?:/v1)+(/.+)"), r"/v1\1"),
    (re.compile(r"/v1(/api/.+)"), r"\1"),
    (re.compile(r"(/.+)"), r"/v1\1"),
    (re.compile(r"(/.+)"), r"/api\1"),
)
_LONGEST = 200  # characters of a path that is thought about
_CLOSE = 0.8  # of difflib's ratio: one wrong letter in a dozen, or a letter more


def methods_by_path(endpoints: Iterable[Endpoint]) -> dict[str, tuple[str, ...]]:
    """Return the methods that each path takes; who can GET it can ask for its head."""
    found: dict[str, tuple[str, ...]] = {}
    for endpoint in endpoints:
        more = ("GET", "HEAD") if endpoint.method == "GET" else (endpoint.method,)
        found[endpoint.path] = (*found.get(endpoint.path, ()), *more)
    return found


def methods_of(path: str, methods: Methods) -> tuple[str, ...]:
    """Return the methods that a path takes, which may be variable in a part; none for one that there is not."""
    return methods.get(path) or next((found for form, found in methods.items() if _is_of(path, form)), ())


def _is_of(path: str, form: str) -> bool:
    head, brace, _ = form.partition("{")
    return bool(brace) and path.startswith(head) and len(path) > len(head)


def meant_path(path: str, methods: Methods) -> str | None:
    """Return the path that was most likely meant by one that there is not, None where none is like it."""
    if len(path) > _LONGEST:
        return None
    plain = re.sub(r"/{2,}", "/", path).rstrip("/")
    guesses = [plain, *(to for form, by in _OTHERS if (match := form.fullmatch(plain)) and (to := match.expand(by)))]
    for guess in guesses:
        if guess in methods:
            return guess
    known = [form for form in methods if "{" not in form]
    for guess in guesses:
        if close := difflib.get_close_matches(guess, known, 1, _CLOSE):
            return close[0]
    return None
