"""What a lender keeps of a model: the second load sends it no more, and answers are the same."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmrun.engine.client import Engine
from llmrun.settings import RunSettings
from scripts.synthetic import Shape, write_model
from tests.conftest import ask
from tests.lent import lending
from tests.test_lend import alloc, connect

# three tensors of 12 MiB: ggml keeps those of more than 10
LARGE = Shape(n_layer=1, n_embd=1024, n_ff=6144, n_head=8, n_head_kv=2, head_dim=128)
SENT = 36 << 20


@dataclass
class Relay:
    """Passes on to a server what comes; sent: bytes that went to it."""

    port: int
    sent: int = 0


@contextmanager
def relay(host: str, port: int) -> Iterator[Relay]:
    """A relay in this process, for one connection after another."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        passed = Relay(listener.getsockname()[1])

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    server = socket.create_connection((host, port))
                    threading.Thread(target=forward, args=(server, client, None), daemon=True).start()
                    threading.Thread(target=forward, args=(client, server, passed), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()
        yield passed
        listener.shutdown(socket.SHUT_RDWR)


def forward(source: socket.socket, target: socket.socket, counted: Relay | None) -> None:
    """Pass on what comes until one side hangs up."""
    with source, contextlib.suppress(OSError):
        while data := source.recv(1 << 18):
            target.sendall(data)
            if counted is not None:
                counted.sent += len(data)
        target.shutdown(socket.SHUT_WR)


def answer(model: Path, port: int) -> str:
    """What a model says that lies on the device behind a port."""
    device = f"rpc:127.0.0.1:{port}"
    settings = RunSettings(n_ctx=512, n_threads=1, n_threads_batch=1, devices=(device,), n_gpu_layers=99)
    with Engine() as engine:
        engine.load(model, settings)
        return ask(engine, "hello", max_tokens=4)


def test_weights_cross_the_network_once(tmp_path: Path) -> None:
    model = write_model(tmp_path / "large.gguf", LARGE)
    tensors = tmp_path / ".cache" / "llmrun" / "tensors"
    with lending(tmp_path) as lender:
        assert lender.told["devices"][0]["total"] > 64 << 20
        with relay(lender.told["host"], lender.told["port"]) as passed:
            first = answer(model, passed.port)
            assert passed.sent > SENT
            assert len([file for file in tensors.iterdir() if len(file.name) == 16]) == 3
            passed.sent = 0
            assert answer(model, passed.port) == first
            assert passed.sent < SENT / 4
        time.sleep(1.5)  # the lender looks twice a second: that nobody borrows any more
        with connect(lender) as borrower:
            assert alloc(borrower, 5 << 20)
            lender.hear("has borrowed 5.0 MiB")  # from here on what is whole is not looked at until it goes
            before = {file.name for file in tensors.iterdir()}
            cut = next(file for file in tensors.iterdir() if len(file.name) == 16)
            cut.write_bytes(cut.read_bytes()[:-1])
            os.kill(lender.server_pid(), signal.SIGKILL)  # as one that dies while it writes
            assert "; 127.0.0.1 has to load its model again" in lender.hear("started again")
        assert before - {file.name for file in tensors.iterdir()} == {cut.name}


def test_what_came_while_somebody_borrowed_is_not_believed_after_an_end(tmp_path: Path) -> None:
    """A server that is ended may be writing; once it has ended, nothing would tell that somebody borrowed of it."""
    tensors = tmp_path / ".cache" / "llmrun" / "tensors"
    cut, whole = tensors / "00000000000000aa", tensors / "00000000000000bb"
    with contextlib.ExitStack() as stack, lending(tmp_path) as lender:
        borrower = stack.enter_context(connect(lender))
        assert alloc(borrower, 5 << 20)
        lender.hear("has borrowed 5.0 MiB")
        cut.write_bytes(b"cut off")
    with lending(tmp_path):
        assert not cut.exists()
        whole.write_bytes(b"whole")
    with lending(tmp_path):
        assert whole.exists()
