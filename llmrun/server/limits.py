"""What a request may have at most, and the checks of it. Pure.

Every limit is far above what people ask and far below what would hold up the others. Bytes unless it says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmrun.engine.protocol import Grammar
from llmrun.errors import ContextOverflowError, UsageError
from llmrun.message import Message, Tool
from llmrun.server.ask import Ask
from llmrun.units import format_bytes

MAX_BODY = 8 << 20
MAX_HEADERS = 32 << 10
MAX_BODIES = 256 << 20  # of all requests that are being read at once
MAX_IMAGE = 20 << 20  # of one image, decoded; a body's own limit is met earlier unless it was raised
SECONDS_TO_SEND = 60.0  # for a whole request from its first byte on
SECONDS_IDLE = 75  # of a connection between two requests, longer than clients keep theirs
SECONDS_TO_READ = 120.0  # that a client may leave what it was sent unread

MAX_DEPTH = 100  # of JSON in JSON: schemas of tools have a dozen
MAX_MESSAGES = 4096
MAX_STOPS = 32
MAX_STOP = 1 << 10
MAX_TOOLS = 256
MAX_GRAMMAR = 64 << 10
MAX_REPETITIONS = 1000
# No text has that many characters a token over a whole context: what is longer need not be tokenized to be refused
MAX_CHARACTERS_A_TOKEN = 64

_SHORTER = "shorten it, or serve with --ctx"
_KINDS = {"gbnf": "grammar", "json_schema": "schema"}
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")  # with two kinds a round would take a list away, and then what held it
_NO_BRACKETS = bytes(code for code in range(256) if code not in b"[]{}")


def check_depth(body: bytes) -> None:
    """Raise UsageError for JSON that is nested deeper than anything means to be; what is no JSON may pass."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    # Each round takes the innermost pairs away: as many rounds as it is deep, each of them at the speed of memory.
    rest = _STRING.sub(b"", body).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        before, rest = rest, rest.replace(b"[]", b"")
        if len(rest) == len(before):
            return
    if rest:
        raise UsageError(f"the body is nested more than {MAX_DEPTH} deep", "send flatter JSON")


def check_limits(ask: Ask) -> None:
    """Raise UsageError where there is more of something than is taken."""
    check_counts(ask.messages, ask.tools)
    _check_count("stop strings", len(ask.stop), MAX_STOPS)
    if any(len(text.encode("utf-8", "replace")) > MAX_STOP for text in ask.stop):
        raise UsageError(f"a stop string has more than {format_bytes(MAX_STOP)}", "shorten it")
    if ask.grammar is not None:
        check_grammar_size(ask.grammar)


def check_counts(messages: Sequence[Message], tools: Sequence[Tool]) -> None:
    """Raise UsageError for more messages or tools than are taken."""
    _check_count("messages", len(messages), MAX_MESSAGES)
    _check_count("tools", len(tools), MAX_TOOLS)


def check_grammar_size(*grammars: Grammar) -> None:
    """Raise UsageError for a schema or a grammar, or several together, with more bytes than are compiled."""
    size = sum(len(grammar.text.encode("utf-8", "replace")) for grammar in grammars)
    if size > MAX_GRAMMAR:
        what = "schemas have" if len(grammars) > 1 else f"{_KINDS[grammars[0].kind]} has"
        raise UsageError(f"the {what} {format_bytes(size)}: at most {format_bytes(MAX_GRAMMAR)} are taken")


def check_prompt(ask: Ask, n_ctx: int) -> None:
    """Raise ContextOverflowError for a prompt that is beyond any doubt longer than a context of so many tokens."""
    check_length(ask.messages, ask.tools, n_ctx)
    for raw in ask.raw:
        _check_characters(len(raw.text) + len(raw.suffix or ""), n_ctx)
        if len(raw.tokens) > n_ctx:
            raise ContextOverflowError(
                f"the prompt has {len(raw.tokens):,} tokens, and the context holds {n_ctx:,}", _SHORTER
            )


def check_length(messages: Sequence[Message], tools: Sequence[Tool], n_ctx: int) -> None:
    """Raise ContextOverflowError for a conversation that is beyond any doubt longer than a context of so many tokens.

    Tools and calls count: they stand in the prompt too.
    """
    length = sum(len(message.content) + len(message.thoughts) for message in messages)
    length += sum(len(call.arguments) for message in messages for call in message.calls)
    length += sum(len(tool.description) + len(tool.parameters) for tool in tools)
    _check_characters(length, n_ctx)


def most_characters(n_ctx: int) -> int:
    """Return how many characters no text has that a context of so many tokens holds."""
    return n_ctx * MAX_CHARACTERS_A_TOKEN


def _check_characters(length: int, n_ctx: int) -> None:
    if length > most_characters(n_ctx):
        raise ContextOverflowError(
            f"the prompt has {length:,} characters, more than the context's {n_ctx:,} tokens hold", _SHORTER
        )


def _check_count(what: str, count: int, most: int) -> None:
    if count > most:
        raise UsageError(f"{count:,} {what}: at most {most:,} are taken", "ask for less at once")
