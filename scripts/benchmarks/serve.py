"""Many clients at once: total tokens a second, the wait for the first one, and memory, beside two other servers."""

from __future__ import annotations

import contextlib
import random
import string
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from scripts.benchmarks.serving.client import Asked, ask_all
from scripts.benchmarks.serving.servers import Running, Wanted, commands, running
from scripts.benchmarks.table import Row, format_table
from scripts.synthetic import QWEN3_0_6B, write_model

CLIENTS = (1, 4, 8, 16)
TURNS = 3
_N_PROMPT = 128  # letters, each a token
_N_ANSWER = 64
_N_CTX = 512
# llama_cpp.server answers one after another: so many clients show it
_SERIAL_CLIENTS = (8,)


@dataclass(frozen=True, slots=True)
class _Turn:
    seconds: float
    asked: list[Asked]

    @property
    def rate(self) -> float:
        return sum(one.n_tokens for one in self.asked) / self.seconds

    def first(self, part: float) -> float:
        """Seconds to the first token that such a part of the clients had to wait at most."""
        waits = sorted(one.first for one in self.asked)
        return waits[0] if len(waits) == 1 else quantiles(waits, n=100, method="inclusive")[round(part * 100) - 1]


def measure_serve(folder: Path) -> list[Row]:
    """Clients that all ask at once, 128 tokens in and 64 out, with a 0.6B shape."""
    path = folder / "qwen3-0.6b-chat-Q4_K_M.gguf"
    if not path.exists():
        write_model(path, QWEN3_0_6B, mix="Q4_K_M")
    wanted = Wanted(path, max(CLIENTS), _N_CTX)
    rows = []
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(running(name, command)) for name, command in commands(wanted).items()}
        for server in servers.values():
            print("  " + " ".join(server.command), flush=True)
            _turn(server, 1)  # pages of the file, threads, buffers
        for n in CLIENTS:
            rows += (found := _rows(servers, n))
            print(format_table(found), flush=True)  # all of it takes long: what is known is not lost
        rows.append(_memory(servers["llmrun"], servers["llama-server"]))
    return rows


def _rows(servers: dict[str, Running], n: int) -> list[Row]:
    names = [name for name in servers if name != "llama_cpp.server" or n in _SERIAL_CLIENTS]
    turns: dict[str, list[_Turn]] = {name: [] for name in names}
    for _ in range(TURNS):
        for name in names:
            turns[name].append(_turn(servers[name], n))
    ours = turns["llmrun"]
    rows = []
    for name, bar in (("llama-server", 0.95), ("llama_cpp.server", 2.0)):
        if name not in turns:
            continue
        theirs = turns[name]
        rates = tuple(turn.rate for turn in ours), tuple(turn.rate for turn in theirs)
        rows.append(Row(f"serve {n} clients, all tokens: {name}", "tok/s", *rates, bar))
        for part in (0.5, 0.95):
            firsts = tuple(turn.first(part) for turn in ours), tuple(turn.first(part) for turn in theirs)
            text = f"serve {n} clients, first token p{part * 100:.0f}: {name}"
            rows.append(Row(text, "s", *firsts, 1.05, at_least=False))
    return rows


def _turn(server: Running, n: int) -> _Turn:
    bodies = [
        {
            "model": "",
            "messages": [{"role": "user", "content": "".join(random.choices(string.ascii_lowercase, k=_N_PROMPT))}],
            "max_tokens": _N_ANSWER,
            "temperature": 0,
        }
        for _ in range(n)
    ]
    return _Turn(*ask_all(server.url, bodies))


def _memory(ours: Running, theirs: Running) -> Row:
    mebibytes = tuple(median([server.resident() / (1 << 20)]) for server in (ours, theirs))
    return Row("serve, memory of their own", "MiB", mebibytes[:1], mebibytes[1:], 1.1, at_least=False)
