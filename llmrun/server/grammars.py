"""Grammars and schemas that clients send: bounded, compiled apart from the worker, and remembered."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmrun.engine.grammar_check import check_calls, compile_grammar
from llmrun.engine.protocol import Grammar
from llmrun.errors import OverloadedError, UsageError
from llmrun.message import Tool, ToolChoice
from llmrun.server.ask import Ask
from llmrun.server.limits import MAX_REPETITIONS, check_grammar_size
from llmrun.structured.convert import parse_schema

_REMEMBERED = 256  # a few KiB each
_AT_ONCE = 2
_MAX_WAITING = 16

# In GBNF what is in quotes, in a class or a comment repeats nothing.
_TEXT = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\r\n]*', re.DOTALL)
_COUNTS = re.compile(r"\{\s*([0-9]+)\s*(?:,\s*([0-9]*)\s*)?\}")
_COUNTING = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains")
_VALUES = ("const", "enum", "default", "examples")  # what stands in them is no schema


@dataclass(frozen=True, slots=True)
class Calls:
    """Tools of which one must be called, or may be where an answer by a schema is `instead`."""

    tools: tuple[Tool, ...]
    choice: ToolChoice
    instead: Grammar | None

    @property
    def schemas(self) -> list[Grammar]:
        """What the arguments of those that may be called must be like."""
        chosen = [tool for tool in self.tools if self.choice.name in (None, tool.name)]
        return [Grammar("json_schema", tool.parameters or "{}") for tool in chosen]


def calls_of(ask: Ask) -> Calls | None:
    """Return what the worker makes a grammar of calls for; None where it makes none."""
    choice, grammar = ask.tool_choice, ask.grammar
    if not ask.tools or ask.raw:
        return None
    if choice.required or choice.name is not None:
        return Calls(ask.tools, choice, None)
    return None if grammar is None or grammar.kind == "gbnf" else Calls(ask.tools, choice, grammar)


class Grammars:
    """What clients' grammars were compiled to, by the model's file; for one event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, asyncio.Task[Grammar | UsageError | None]] = OrderedDict()
        self._pool = ThreadPoolExecutor(_AT_ONCE, "grammar")
        self._waiting = 0

    async def checked(self, grammar: Grammar, path: Path) -> Grammar:
        """Return a grammar that the worker can take without harm.

        Raises UsageError for one that is not, OverloadedError where too many are being compiled.
        """
        check_grammar_size(grammar)
        check_repetitions(grammar)
        known = await self._once(repr((str(path), grammar)), partial(compile_grammar, path, grammar))
        assert known is not None
        return known

    async def check_calls(self, calls: Calls, path: Path) -> None:
        """Raise as checked does where the grammar that the worker makes of tools would harm it."""
        schemas = [*calls.schemas, *([] if calls.instead is None else [calls.instead])]
        check_grammar_size(*schemas)
        for schema in schemas:
            check_repetitions(schema)
        work = partial(check_calls, path, calls.tools, calls.choice, calls.instead)
        await self._once(repr((str(path), calls)), work)

    def close(self) -> None:
        """Let go of the threads; what waits for one is not compiled any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _once(self, question: str, work: Callable[[], Grammar | None]) -> Grammar | None:
        """Return what work does, done once for all who have the same question, or raise what it raised."""
        key = hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()
        task = self._known.get(key)
        if task is None:
            if self._waiting >= _MAX_WAITING:
                raise OverloadedError("too many grammars are being compiled", "ask again", retry_after=2)
            task = self._known[key] = asyncio.create_task(self._done(key, work))
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        found = await asyncio.shield(task)  # who asked for it first may go away
        if isinstance(found, UsageError):  # a new one: with every raise an error holds on to more of who raised it
            raise UsageError(found.message, found.hint)
        return found

    async def _done(self, key: str, work: Callable[[], Grammar | None]) -> Grammar | UsageError | None:
        """Do work in a thread; what the machine is to blame for, and not the grammar, is not remembered."""
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except UsageError as error:
            return error.with_traceback(None)
        except BaseException:
            self._known.pop(key, None)
            raise
        finally:
            self._waiting -= 1


def check_repetitions(grammar: Grammar) -> None:
    """Raise UsageError for a grammar or a schema in which something repeats more often than is taken."""
    for count in _counts(grammar):
        if count > MAX_REPETITIONS:
            raise UsageError(
                f"the {'grammar' if grammar.kind == 'gbnf' else 'schema'} repeats something {count:,} times: "
                f"at most {MAX_REPETITIONS:,} are taken",
                "leave the bound away, or make it smaller",
            )


def _counts(grammar: Grammar) -> Iterator[int]:
    """Give every count of repetitions that is written down."""
    if grammar.kind == "gbnf":
        yield from _counts_in(_TEXT.sub(" ", grammar.text))
        return
    left: list[Any] = [parse_schema(grammar.text)]
    while left:
        match left.pop():
            case dict() as part:
                yield from (int(part[key]) for key in _COUNTING if _is_count(part.get(key)))
                if isinstance(pattern := part.get("pattern"), str):
                    yield from _counts_in(pattern)
                left += [value for key, value in part.items() if key not in _VALUES]
            case list() as parts:
                left += parts


def _counts_in(text: str) -> Iterator[int]:
    for found in _COUNTS.finditer(text):
        # Python reads only so many digits; more than nine are too many whatever they say
        yield from (int(digits[:10]) for digits in found.groups() if digits)


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
