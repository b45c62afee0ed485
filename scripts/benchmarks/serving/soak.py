"""Many clients for a while, some of them bad, while the engine is killed again and again: what must hold all the same.

Every answer that is completed is the one that the model gives alone; whatever fails says so in its API's way; the
engine is back soon after each death; and in the end nothing is left behind: no slot, no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

import psutil

QUESTIONS = (
    "what is a kv cache",
    "what is vram",
    "how much memory does a 7B model need at 4 bits?",
    "what is GGUF",
    "which quantization should i use",
    "what is mmap",
    "why is my model slow",
    "what is a token",
    "what is offloading",
    "what is a mixture of experts",
)
_N_MOST = 64  # tokens of an answer
_PATH = "/v1/chat/completions"
_TOO_LARGE = 40 << 20  # bytes: more than any server takes
_REFUSALS = frozenset({400, 413, 415, 422})
_BUSY = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Load:
    """How hard it is made: clients at once, seconds, and seconds between two deaths of the engine (None: none)."""

    n_clients: int
    seconds: float
    kill_every: float | None
    seed: int = 0


@dataclass(slots=True)
class Soaked:
    """What was seen. outcomes: how often each thing happened; wrong: what must not happen, in words.

    recoveries: seconds from a death to the next whole answer. resident: bytes of the server's own process, a sample
    a second.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """How much larger the process is in the last quarter of the time than in the second, as a part of it."""
        quarter = max(1, len(self.resident) // 4)
        early = sorted(self.resident[quarter : 2 * quarter] or self.resident)
        late = sorted(self.resident[-quarter:])
        return late[len(late) // 2] / early[len(early) // 2] - 1


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: status 0 is a connection that broke."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Soak:
    def __init__(self, url: str, pid: int, load: Load, headers: dict[str, str]) -> None:
        self._place = urlsplit(url)
        self._process = psutil.Process(pid)
        self._load, self._headers = load, headers
        self._random = random.Random(load.seed)
        self._answers: dict[str, str] = {}
        self._killed: float | None = None
        self._until = 0.0
        self.seen = Soaked()

    async def run(self) -> Soaked:
        for question in QUESTIONS:
            reply = await self._send(_body(question))
            assert reply.status == 200, reply
            self._answers[question] = json.loads(reply.body)["choices"][0]["message"]["content"]
        self._until = time.monotonic() + self._load.seconds
        clients = [self._client() for _ in range(self._load.n_clients)]
        await asyncio.gather(*clients, self._kill(), self._watch())
        await self._check_rest()
        return self.seen

    async def _client(self) -> None:
        kinds: Sequence[tuple[Callable[[], Awaitable[None]], int]] = (
            (self._ask, 6),
            (self._stream, 6),
            (self._leave, 3),
            (self._read_slowly, 1),
            (self._send_too_much, 1),
            (self._send_nonsense, 2),
        )
        weights = [weight for _, weight in kinds]
        while time.monotonic() < self._until:
            (kind,) = self._random.choices([one for one, _ in kinds], weights)
            await kind()

    async def _ask(self) -> None:
        question, began = self._random.choice(QUESTIONS), time.monotonic()
        reply = await self._send(_body(question))
        if reply.status == 200:
            found = json.loads(reply.body)["choices"][0]["message"]["content"]
            self._completed(question, found, began)
        else:
            self._failed(reply)
            await self._wait_after(reply)

    async def _stream(self, *, slowly: bool = False) -> None:
        question, began = self._random.choice(QUESTIONS), time.monotonic()
        reply = await self._send(_body(question, stream=True), pause=0.05 if slowly else 0.0)
        if reply.status != 200:
            self._failed(reply)
            await self._wait_after(reply)
            return
        text, error, done = _events(reply.body)
        if error is not None:
            self.seen.outcomes["failed in mid-stream, and said so"] += 1
        elif done:
            self._completed(question, text, began)
        else:
            self._wrong(f"a stream ended without a word: {reply.body[-200:]!r}")

    async def _read_slowly(self) -> None:
        await self._stream(slowly=True)

    async def _leave(self) -> None:
        """Go away in the middle, at once or after some of the answer."""
        content = json.dumps(_body(self._random.choice(QUESTIONS), stream=True)).encode()
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(self._place.hostname, self._place.port)
            writer.write(_head(self._place, self._headers, len(content)) + content)
            await asyncio.wait_for(reader.read(self._random.choice((1, 300, 2000))), 60)
            writer.transport.abort()
        self.seen.outcomes["left"] += 1

    async def _send_too_much(self) -> None:
        reply = await self._send_raw(b'{"messages": "' + b"x" * (1 << 20), length=_TOO_LARGE)
        self._refused(reply, "too large a body", broken_is_well=True)

    async def _send_nonsense(self) -> None:
        bad = (b"{", b'{"messages": 3}', b"\xff\xfe", b"[" * 5000, b'{"messages": [], "model": "../../etc/passwd"}')
        reply = await self._send_raw(self._random.choice(bad))
        self._refused(reply, "nonsense")

    def _refused(self, reply: Reply, what: str, *, broken_is_well: bool = False) -> None:
        if reply.status in _REFUSALS | {404} or (broken_is_well and reply.status == 0):
            self.seen.outcomes[f"{what} refused"] += 1
        else:
            self._wrong(f"{what} was answered with {reply.status}: {reply.body[:200]!r}")

    def _completed(self, question: str, found: str, began: float) -> None:
        if found != self._answers[question]:
            self._wrong(f"{question!r} was answered with {found!r}, alone it is {self._answers[question]!r}")
        self.seen.outcomes["completed"] += 1
        if self._killed is not None and began > self._killed:
            self.seen.recoveries.append(time.monotonic() - self._killed)
            self._killed = None

    def _failed(self, reply: Reply) -> None:
        try:
            message = json.loads(reply.body)["error"]["message"]
        except (ValueError, LookupError, TypeError):
            message = ""
        is_known = reply.status in _BUSY or reply.status in (500, 502)
        if not (is_known and message):
            self._wrong(f"a request failed with {reply.status}: {reply.body[:200]!r}")
        self.seen.outcomes[f"failed with {reply.status}, and said why"] += 1

    async def _wait_after(self, reply: Reply) -> None:
        if reply.status in _BUSY:
            if "retry-after" not in reply.headers:
                self._wrong(f"{reply.status} without Retry-After")
            await asyncio.sleep(self._random.uniform(0.05, 0.5))

    def _wrong(self, what: str) -> None:
        if len(self.seen.wrong) < 20:
            self.seen.wrong.append(what)

    async def _kill(self) -> None:
        while self._load.kill_every is not None and time.monotonic() + self._load.kill_every < self._until:
            await asyncio.sleep(self._load.kill_every)
            for child in self._process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "llmrun.worker" in child.cmdline():
                        child.kill()
                        self._killed = time.monotonic()

    async def _watch(self) -> None:
        while time.monotonic() < self._until:
            self.seen.resident.append(self._process.memory_info().rss)
            await asyncio.sleep(1)

    async def _check_rest(self) -> None:
        """See that as many as before are answered at once now, and right."""
        began = time.monotonic()
        replies = await asyncio.gather(*(self._send(_body(question)) for question in QUESTIONS))
        for question, reply in zip(QUESTIONS, replies, strict=True):
            if reply.status not in _BUSY:
                found = json.loads(reply.body)["choices"][0]["message"]["content"] if reply.status == 200 else ""
                self._completed(question, found, began)

    async def _send(self, body: dict[str, Any], pause: float = 0.0) -> Reply:
        return await self._send_raw(json.dumps(body).encode(), pause=pause)

    async def _send_raw(self, content: bytes, *, length: int | None = None, pause: float = 0.0) -> Reply:
        try:
            reader, writer = await asyncio.open_connection(self._place.hostname, self._place.port)
            writer.write(_head(self._place, self._headers, len(content) if length is None else length) + content)
            received = bytearray()
            while data := await reader.read(64 if pause else 1 << 16):
                received += data
                if pause:
                    await asyncio.sleep(pause)
            writer.close()
        except OSError:
            received = bytearray()
        return _parse(bytes(received))


def soak(url: str, pid: int, load: Load, headers: dict[str, str] | None = None) -> Soaked:
    """Load a server of the embedded model, whose process has that pid, and return what was seen."""
    return asyncio.run(_Soak(url, pid, load, headers or {}).run())


def _body(question: str, *, stream: bool = False) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "temperature": 0, "max_tokens": _N_MOST, "stream": stream}


def _head(place: SplitResult, headers: dict[str, str], length: int) -> bytes:
    lines = [f"POST {_PATH} HTTP/1.1", f"Host: {place.netloc}", "Content-Type: application/json"]
    lines += [f"Content-Length: {length}", "Connection: close", *(f"{name}: {text}" for name, text in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _parse(received: bytes) -> Reply:
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not lines[0].startswith("HTTP/"):
        return Reply(0, {}, b"")
    pairs = (line.partition(":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return Reply(int(lines[0].split()[1]), headers, body)


def _unchunked(body: bytes) -> bytes:
    whole = bytearray()
    while body:
        size, _, body = body.partition(b"\r\n")
        n = int(size or b"0", 16)
        whole += body[:n]
        body = body[n + 2 :]
        if n == 0:
            break
    return bytes(whole)


def _events(body: bytes) -> tuple[str, Any, bool]:
    """Return the text of a stream, the error in it if there is one, and whether it says that it is over."""
    text, error, done = "", None, False
    for line in body.decode().splitlines():
        if line == "data: [DONE]":
            done = True
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            error = event.get("error", error)
            for choice in event.get("choices", ()):
                text += choice.get("delta", {}).get("content") or ""
    return text, error, done
