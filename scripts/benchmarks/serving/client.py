"""Clients of a server, all at once: each asks once, streamed, and notes when its tokens came.

Bare sockets, so that what asks costs little beside what answers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client saw: the tokens it got, and seconds to the first and to the last of them."""

    n_tokens: int
    first: float
    whole: float


def ask_all(url: str, bodies: Sequence[dict[str, Any]]) -> tuple[float, list[Asked]]:
    """Send all bodies to a server's chat completions at once; returns the seconds of all, and each one's answer."""

    async def together() -> tuple[float, list[Asked]]:
        began = time.perf_counter()
        asked = await asyncio.gather(*(_ask(url, body) for body in bodies))
        return time.perf_counter() - began, asked

    return asyncio.run(together())


async def _ask(url: str, body: dict[str, Any]) -> Asked:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    content = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    began = time.perf_counter()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + content)
    first, n_tokens, is_full = 0.0, 0, False
    status = await reader.readline()
    assert b" 200 " in status, status + await reader.read(2000)
    async for line in reader:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        choice = event["choices"][0] if event.get("choices") else {}
        delta, is_full = choice.get("delta", {}), is_full or choice.get("finish_reason") == "length"
        if not first and (delta.get("content") or delta.get("reasoning_content")):
            first = time.perf_counter() - began
        n_tokens = (event.get("usage") or {}).get("completion_tokens", n_tokens)
    writer.close()
    if is_full and not n_tokens:  # llama_cpp.server tells no usage when it streams
        n_tokens = body["max_tokens"]
    return Asked(n_tokens, first, time.perf_counter() - began)
