"""`llmrun lend`: the real program, borrowed from by the real engine and asked over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from llmrun.engine.client import Engine
from llmrun.errors import InsufficientMemoryError
from llmrun.lending.address import listen
from llmrun.lending.device_server import Lending
from llmrun.lending.status import BYTES, MOST_BYTES, STATUS, sign
from llmrun.lending.words import ASK_HELD
from llmrun.settings import RunSettings
from tests.conftest import ask
from tests.lent import LendingProgram, lending, linux_only

KEY = b"a key that nobody guesses"
LENT = 100 << 20
HELLO = bytes([14]) + (24).to_bytes(8, "little") + bytes(24)  # ggml-rpc.cpp: RPC_CMD_HELLO
ALLOC, SET_TENSOR = 0, 6  # RPC_CMD_ALLOC_BUFFER, RPC_CMD_SET_TENSOR


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LendingProgram]:
    home = tmp_path_factory.mktemp("home")
    file = home / "key"
    file.touch(0o600)
    file.write_bytes(KEY + b"\n")
    with lending(home, "--memory", "100MiB", "--key-file", str(file), key=KEY) as running:
        yield running
    assert running.process.returncode == 0


def on(lender: LendingProgram, n_ctx: int = 512) -> RunSettings:
    """All layers on the device that is lent."""
    device = f"rpc:{lender.endpoint}"
    return RunSettings(n_ctx=n_ctx, n_threads=1, n_threads_batch=1, devices=(device,), n_gpu_layers=99)


def message(command: int, body: bytes) -> bytes:
    """A message of llama.cpp's protocol."""
    return bytes([command]) + len(body).to_bytes(8, "little") + body


def receive(client: socket.socket, n: int) -> bytes:
    """So many bytes; fewer where the other side hung up."""
    data = b""
    while len(data) < n and (more := client.recv(n - len(data))):
        data += more
    return data


def connect(lender: LendingProgram) -> socket.socket:
    """A client of llama.cpp's protocol that has shaken hands."""
    client = socket.create_connection((lender.told["host"], lender.told["port"]), 30)
    client.sendall(HELLO)
    assert len(receive(client, 36)) == 36
    return client


def alloc(client: socket.socket, size: int) -> bool:
    """Whether a buffer of so many bytes is granted."""
    client.sendall(message(ALLOC, bytes(4) + size.to_bytes(8, "little")))
    return any(receive(client, 24)[8:16])


def test_a_device_server_whose_lender_does_not_hear_it_ends() -> None:
    port, listener = listen("127.0.0.1", 0)
    command = Lending("127.0.0.1", port, ("CPU",), None, 1, None).command()
    with listener, subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline()
        server.stdout.close()
        server.stdin.write(ASK_HELD)
        server.stdin.flush()
        assert server.wait(30) == 1


def test_it_says_as_json_where_it_is_and_what_it_lends(lender: LendingProgram) -> None:
    told = lender.told
    assert told == {
        "host": "127.0.0.1",
        "port": told["port"],
        "status_port": told["port"] + 1,
        "devices": [{"name": f"rpc:127.0.0.1:{told['port']}", "id": "CPU", "total": LENT, "free": LENT}],
    }


def test_a_borrower_sees_free_memory_fall_and_rise_again(lender: LendingProgram, guide_file: Path) -> None:
    (before,) = lender.wait_for(lambda status: status.client is None).devices
    assert (before.id, before.kind, before.total, before.free) == ("CPU", "CPU", LENT, LENT)
    with Engine() as engine:
        seen = engine.devices([f"rpc:{lender.endpoint}"])[-1]
        assert (seen.free, seen.total) == (LENT, LENT)  # ggml's own server says all of the machine's memory
        engine.load(guide_file, on(lender))
        assert "cache" in ask(engine, "What is a KV cache?", max_tokens=24).lower()
        during = lender.status()
        assert during.client == "127.0.0.1"
        assert during.devices[0].free < LENT - guide_file.stat().st_size / 2
        assert "127.0.0.1 has borrowed " in lender.hear("has borrowed")
    after = lender.wait_for(lambda status: status.client is None)
    assert after.devices == (before,)
    assert "127.0.0.1 has gone: it had up to " in lender.hear("has gone")


def test_more_than_is_lent_is_refused_and_nothing_is_lost(lender: LendingProgram) -> None:
    with connect(lender) as client:
        granted = [alloc(client, size) for size in (60 << 20, 41 << 20, 40 << 20)]
        assert granted == [True, False, True]
        assert lender.status().devices[0].free == 0
    freed = lender.wait_for(lambda status: status.client is None)  # who has hung up counts until all is freed
    assert freed.devices[0].free == LENT


def test_a_borrower_is_told_as_a_refusal_of_memory(lender: LendingProgram, guide_file: Path) -> None:
    with Engine() as engine, pytest.raises(InsufficientMemoryError) as refused:
        engine.load(guide_file, on(lender, n_ctx=1 << 16))
    assert refused.value.refusal is not None
    assert refused.value.refusal.device == f"rpc:{lender.endpoint}"


@linux_only
def test_a_message_of_a_tebibyte_is_refused_by_the_system_and_survived(lender: LendingProgram) -> None:
    server = lender.server_pid()
    with connect(lender) as client:
        client.sendall(bytes([SET_TENSOR]) + (1 << 40).to_bytes(8, "little") + bytes(1000))
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
    assert lender.status().devices[0].free == LENT
    assert lender.server_pid() == server


@linux_only
def test_whether_a_borrower_is_still_there_is_asked(lender: LendingProgram) -> None:
    """The connection has a timer of its own (proc_net_tcp: tr 02), which one without keepalive has not."""
    with connect(lender) as client:
        mine, other = (f"{port:04X}" for port in (lender.told["port"], client.getsockname()[1]))
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        (timer,) = (row[5] for row in rows if row[1].endswith(f":{mine}") and row[2].endswith(f":{other}"))
    assert timer.startswith("02:")


def test_a_device_server_that_dies_is_started_again(lender: LendingProgram) -> None:
    os.kill(lender.server_pid(), signal.SIGKILL)
    told = lender.hear("started again")  # a borrower of the test before may still be told of in it
    assert told.startswith("the device server was killed (SIGKILL): it was started again")
    with connect(lender) as client:
        assert alloc(client, 1 << 20)


def test_a_length_that_ends_the_device_server_does_not_end_the_lender(lender: LendingProgram) -> None:
    server = lender.server_pid()
    with connect(lender) as client:
        client.sendall(bytes([SET_TENSOR]) + (1 << 63).to_bytes(8, "little") + bytes(1000))
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
    lender.hear("started again")
    assert lender.wait_for_server() != server
    with connect(lender) as client:
        assert alloc(client, 1 << 20)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (None, "asks for a signature"),
        ("Bearer secret", "asks for a signature"),
        (sign(b"another key of some length", "GET", STATUS, int(time.time())), "not by this lender's key"),
        (sign(KEY, "POST", STATUS, int(time.time())), "not by this lender's key"),
        (sign(KEY, "GET", STATUS, int(time.time()) - 3600), "seconds off"),
    ],
    ids=["none", "bearer", "another key", "another method", "an hour old"],  # else the time stands in them
)
def test_the_status_is_only_for_those_with_the_key(lender: LendingProgram, header: str | None, said: str) -> None:
    status, body, _ = lender.ask(STATUS, None, {} if header is None else {"Authorization": header}, signs=False)
    assert status == 401
    assert said in json.loads(body)["error"]["message"]


def test_a_name_that_was_made_to_lead_here_gets_nothing(lender: LendingProgram) -> None:
    status, body, _ = lender.ask(STATUS, None, {"Host": "evil.example"})
    assert (status, json.loads(body)["error"]["hint"]) == (421, "ask it by its address")


def test_bytes_come_as_asked_for_and_do_not_compress(lender: LendingProgram) -> None:
    n = 3_000_001
    status, body, _ = lender.ask(f"{BYTES}?n={n}")
    assert (status, len(body)) == (200, n)
    assert len(zlib.compress(body, 1)) > 0.99 * n


def test_bytes_that_are_sent_are_counted(lender: LendingProgram) -> None:
    status, body, _ = lender.ask(BYTES, bytes(2_000_000))
    assert (status, json.loads(body)) == (200, {"received": 2_000_000})


@pytest.mark.parametrize("n", ["0", "-1", "many", str(MOST_BYTES + 1), "9" * 5000])
def test_no_more_bytes_than_a_measurement_needs(lender: LendingProgram, n: str) -> None:
    assert lender.ask(f"{BYTES}?n={n}")[0] == 400


def test_one_measurement_at_a_time(lender: LendingProgram) -> None:
    host, port = lender.told["host"], lender.told["status_port"]
    with socket.create_connection((host, port), 30) as first:
        signed = sign(KEY, "POST", BYTES, int(time.time()))
        head = f"POST {BYTES} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {signed}\r\nContent-Length: 10\r\n\r\n12345"
        first.sendall(head.encode())
        while (answer := lender.ask(f"{BYTES}?n=1"))[0] == 200:  # the first may not have been read yet
            pass
        assert (answer[0], answer[2]["retry-after"]) == (503, "1")
        first.sendall(b"67890")
        assert first.recv(12) == b"HTTP/1.1 200"
    assert lender.ask(f"{BYTES}?n=1")[0] == 200
