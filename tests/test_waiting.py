"""Waiting for what comes late, with a sign now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from llmrun.server.anthropic.waiting import with_signs


def test_a_sign_comes_where_nothing_else_does_and_nothing_is_lost() -> None:
    async def run() -> tuple[list[int | None], bool]:
        go, closed = asyncio.Event(), asyncio.Event()

        async def items() -> AsyncGenerator[int, None]:
            try:
                yield 1
                await go.wait()
                yield 2
            finally:
                closed.set()

        got: list[int | None] = []
        async for item in with_signs(items(), 0.001):
            got.append(item)
            if len(got) == 3:
                go.set()
        return got, closed.is_set()

    got, closed = asyncio.run(run())
    assert got[:3] == [1, None, None]
    assert [item for item in got if item is not None] == [1, 2]
    assert closed


def test_who_stops_listening_ends_what_is_waited_for() -> None:
    async def run() -> bool:
        closed = asyncio.Event()

        async def items() -> AsyncGenerator[int, None]:
            try:
                await asyncio.Event().wait()
                yield 1
            finally:
                closed.set()

        waiting = with_signs(items(), 0.001)
        assert await anext(waiting) is None
        await waiting.aclose()
        return closed.is_set()

    assert asyncio.run(run())


def test_an_error_is_passed_on() -> None:
    async def items() -> AsyncGenerator[int, None]:
        yield 1
        raise ValueError("late")

    async def run() -> None:
        async for _ in with_signs(items(), 60):
            pass

    with pytest.raises(ValueError, match="late"):
        asyncio.run(run())
