"""Those who send slowly, read slowly or come in crowds, and what is told of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.server.connection import Connection
from llmrun.server.guard import Guard, Policy
from llmrun.server.metrics import Metrics
from llmrun.server.serving import Address, Life, address_of, bind, serve
from llmrun.server.watch import Told, Watch
from tests.serving import serving

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HEAD = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Few(Connection):
    most = 2


class Hasty(Connection):
    seconds_to_send = 0.2
    seconds_to_read = 0.2


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, as every endpoint does, and tell its length."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % size})


@asynccontextmanager
async def running(
    app: ASGIApp, log: Callable[[str], None] = lambda _: None, connection: type[Connection] = Hasty
) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    """Serve an application, to impatience if nothing else is said, and give what connects to it."""
    ready, ends = asyncio.Event(), list[Callable[[], None]]()
    with bind(Address("127.0.0.1", 0)) as listener:
        port = address_of(listener).port
        life = Life(ready.set, log, 1, ends.append, connection)
        task = asyncio.create_task(serve(app, listener, life))
        await ready.wait()
        try:
            yield lambda: asyncio.open_connection("127.0.0.1", port)
        finally:
            ends[0]()
            await task


def test_a_head_that_does_not_come_to_its_end_is_cut_off() -> None:
    """Also where a byte comes now and then."""

    async def ask() -> bytes:
        async with running(Guard(read_all, Policy())) as connect:
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\nX: ")
            trickle = asyncio.create_task(_trickle(writer))
            try:
                return await asyncio.wait_for(reader.read(), 10)
            except ConnectionResetError:
                return b""
            finally:
                trickle.cancel()
                writer.close()

    assert asyncio.run(ask()) == b""


async def _trickle(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"a")
        await asyncio.sleep(0.02)


def test_a_body_that_does_not_come_to_its_end_is_refused() -> None:
    async def ask() -> bytes:
        async with running(Guard(read_all, Policy(seconds_to_send=0.2))) as connect:
            reader, writer = await connect()
            writer.write(HEAD + b"Content-Length: 100\r\n\r\n{")
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            return answer

    answer = asyncio.run(ask())
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"was not sent in time" in answer


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async def ask() -> None:
        ended = asyncio.Event()

        async def pour(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            try:
                while (await asyncio.wait_for(_sent(send), 10)) and not gone.is_set():
                    pass
            finally:
                ended.set()

        async def watch(scope: Scope, receive: Receive, send: Send) -> None:
            async def until_gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                gone.set()

            watching = asyncio.create_task(until_gone())
            await pour(scope, receive, send)
            await watching

        gone = asyncio.Event()
        async with running(watch) as connect:
            reader, writer = await connect()
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(ended.wait(), 10)
            writer.close()

    asyncio.run(ask())


async def _sent(send: Send) -> bool:
    await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    return True


def test_one_connection_too_many_is_told_so_and_the_others_go_on() -> None:
    async def ask() -> tuple[bytes, bytes]:
        async with running(Guard(read_all, Policy()), connection=Few) as connect:
            clients = [await connect() for _ in range(3)]
            refused = await asyncio.wait_for(clients[2][0].read(), 10)
            clients[0][1].write(HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
            answer = await asyncio.wait_for(clients[0][0].read(), 10)
            for _, writer in clients:
                writer.close()
            return refused, answer

    refused, answer = asyncio.run(ask())
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 1" in refused
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_fault_of_ours_is_answered_and_told_without_its_words() -> None:
    lines: list[str] = []

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("the secret of a prompt")

    async def ask() -> bytes:
        app = Watch(fail, Metrics(), lambda _: "other", Told(fault=lines.append))
        async with running(app, lines.append) as connect:
            reader, writer = await connect()
            writer.write(b"GET /v1/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            return answer

    answer = asyncio.run(ask())
    assert answer.startswith(b"HTTP/1.1 500")
    assert b'"type":"api_error"' in answer  # as the API of that path does
    assert "ValueError while answering GET /v1/messages" in lines[0]
    assert "secret" not in str(lines) + str(answer)


def _told(home: Path, *arguments: str) -> str:
    body = {"messages": [{"role": "user", "content": "Whisper\x1b[31m it"}], "max_tokens": 3}
    key = "a-key-that-nobody-guesses"
    with serving(home, "guide", "--threads", "1", "--verbose", "--api-key", key, *arguments) as running:
        assert running.ask("/v1/chat/completions", body, {"x-api-key": key})[0] == 200
        assert running.ask("/%1b[31m%0aforged", headers={"x-api-key": key})[0] == 404
        assert running.ask("/metrics")[0] == 401
        running.process.terminate()
        assert running.process.stderr is not None
        told = running.process.stderr.read()
    assert key not in told
    assert "\x1b" not in told
    return told


def test_a_request_is_a_line_without_what_was_asked(tmp_path: Path) -> None:
    told = _told(tmp_path)
    assert "POST /v1/chat/completions 200 " in told
    assert " + 3 tokens key=key\n" in told
    assert "GET /metrics 401 " in told
    assert "GET /\\x1b[31m\\nforged 404 " in told
    assert "Whisper" not in told
    assert "user: Whisper\\x1b[31m it" in _told(tmp_path, "--log-prompts")
