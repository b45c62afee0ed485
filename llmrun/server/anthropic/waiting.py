"""Waiting for what comes late, with a word now and then that it will: connections that are silent are cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

_T = TypeVar("_T")


async def with_signs(items: AsyncGenerator[_T, None], seconds: float) -> AsyncGenerator[_T | None, None]:
    """Give the items as they come, and None each time that none came for so many seconds; closes the items."""
    coming: asyncio.Future[_T] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(items))
            done, _ = await asyncio.wait((coming,), timeout=seconds)
            if not done:
                yield None
                continue
            try:
                item = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield item
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await items.aclose()
