"""worker.devices: what ggml sees, and devices lent by another process."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llmrun.engine.client import Engine
from llmrun.engine.protocol import DeviceInfo
from llmrun.errors import EngineError, LLMRunError, UsageError
from llmrun.settings import RunSettings
from llmrun.worker.params import numbers_below
from scripts.synthetic import Shape, write_model
from tests.conftest import ONE_THREAD, ask

StartEngine = Callable[..., Engine]


def test_the_cpu_is_a_device_with_the_machines_memory(guide: Engine) -> None:
    cpu = guide.devices()[-1]
    assert (cpu.id, cpu.name, cpu.backend, cpu.kind) == ("CPU", "CPU", "CPU", "CPU")
    assert cpu.total == psutil.virtual_memory().total


def test_a_lent_device_is_listed_by_the_name_settings_call_it(rpc_server: str) -> None:
    with Engine() as engine:
        *local, lent = engine.devices([rpc_server])
        assert tuple(local) == engine.devices()
    total = psutil.virtual_memory().total
    address = rpc_server.removeprefix("rpc:")
    assert replace(lent, free=0) == DeviceInfo(rpc_server, "RPC0", address, "RPC", "GPU", 0, total)


def test_the_same_endpoint_is_attached_once(rpc_server: str, tiny_model: Path) -> None:
    with Engine() as engine:
        names = [device.name for _ in range(3) for device in engine.devices([rpc_server, rpc_server])[-1:]]
    assert names == ["RPC0"] * 3


def test_settings_that_name_no_device_mean_those_of_this_machine(rpc_server: str, tiny_model: Path) -> None:
    """A server that was only looked at gets nothing."""
    data = tiny_model.read_bytes()
    with Engine() as engine:
        before = engine.dry_run(data, len(data), RunSettings())
        engine.devices([rpc_server])
        assert engine.dry_run(data, len(data), RunSettings()) == before


@pytest.fixture
def odd_server() -> Iterator[Callable[[bytes | None], str]]:
    """A function that starts something on a port that says `reply` to whoever connects; None is nothing at all."""
    sockets: list[socket.socket] = []

    def start(reply: bytes | None) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def answer() -> None:
            connection, _ = server.accept()
            sockets.append(connection)
            if reply is not None:
                connection.recv(64)
                connection.sendall(reply)
                with contextlib.suppress(OSError):  # who asked may have heard enough and gone
                    connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=answer, daemon=True).start()
        return f"rpc:127.0.0.1:{server.getsockname()[1]}"

    yield start
    for opened in sockets:
        opened.close()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (None, "did not answer in 3 seconds"),
        (b"", "is no device server"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "is no device server"),
        ((28).to_bytes(8, "little") + bytes([6, 0, 0]) + bytes(25), "speaks version 6.0, this engine 7.0"),
        ((28).to_bytes(8, "little") + bytes([7, 9, 0]) + bytes(25), "speaks version 7.9, this engine 7.0"),
    ],
)
def test_what_is_no_server_of_ours_is_an_error_and_not_an_abort(
    odd_server: Callable[[bytes | None], str], reply: bytes | None, message: str
) -> None:
    with Engine() as engine:
        with pytest.raises(EngineError, match=message):
            engine.devices([odd_server(reply)])
        assert engine.devices()


def test_a_port_where_nobody_listens_is_an_error(tiny_model: Path) -> None:
    data = tiny_model.read_bytes()
    settings = replace(ONE_THREAD, devices=("rpc:127.0.0.1:1",))
    with Engine() as engine:
        for question in (
            lambda: engine.devices(["rpc:127.0.0.1:1"]),
            lambda: engine.dry_run(data, len(data), settings),
            lambda: engine.load(tiny_model, settings),
        ):
            with pytest.raises(EngineError, match=r"no device server can be reached at 127\.0\.0\.1:1"):
                question()


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("CUDA7", "there is no device 'CUDA7'"),
        ("", "there is no device ''"),
        ("rpc:localhost", "is no device of another machine"),
        ("rpc:a:70000", "is no device of another machine"),
        ("rpc:a b:1", "is no device of another machine"),
    ],
)
def test_a_name_that_is_no_device_is_the_users_error(guide: Engine, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        guide.dry_run(b"", 0, RunSettings(devices=(device,)))


def test_a_server_lends_so_many_devices_and_no_more(rpc_server: str, tiny_model: Path) -> None:
    data = tiny_model.read_bytes()
    with Engine() as engine, pytest.raises(UsageError, match="lends 1 devices"):
        engine.dry_run(data, len(data), RunSettings(devices=(rpc_server + "/1",)))


@pytest.mark.parametrize("n_gpu_layers", [0, 1, 2, None])
def test_a_lent_device_answers_as_the_host_does(
    start_engine: StartEngine, rpc_server: str, tmp_path: Path, n_gpu_layers: int | None
) -> None:
    path = write_model(tmp_path / "model.gguf", Shape(tied=False), mix="Q8_0")
    expected = ask(start_engine(path, replace(ONE_THREAD, devices=())), "hi", max_tokens=12)
    settings = replace(ONE_THREAD, devices=(rpc_server,), n_gpu_layers=n_gpu_layers)
    assert ask(start_engine(path, settings), "hi", max_tokens=12) == expected


def test_a_server_that_is_in_use_is_an_error_and_not_a_wait(
    start_engine: StartEngine, rpc_server: str, tiny_model: Path
) -> None:
    settings = replace(ONE_THREAD, devices=(rpc_server,))
    user = start_engine(tiny_model, settings)
    with Engine() as engine, pytest.raises(EngineError, match="did not answer"):
        engine.load(tiny_model, settings)
    assert ask(user, "hi", max_tokens=3)


def test_who_holds_a_server_may_go_on_asking_it(start_engine: StartEngine, rpc_server: str, tiny_model: Path) -> None:
    settings = replace(ONE_THREAD, devices=(rpc_server,), load_mode="none")
    user = start_engine(tiny_model, settings)
    data = tiny_model.read_bytes()
    assert user.info
    assert user.dry_run(data, len(data), settings) == user.info.memory
    assert user.devices([rpc_server])[-1].id == rpc_server


@pytest.mark.parametrize("endpoint", [None, "127.0.0.1:x", "127.0.0.1:70000", "nonsense"])
def test_a_place_where_no_server_can_be_is_told_by_it(rpc_server: str, endpoint: str | None) -> None:
    """None is a port that is taken."""
    where = endpoint or rpc_server.removeprefix("rpc:")
    command = [sys.executable, "-P", "-m", "llmrun.worker.rpc_server", where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"no server can listen at {where}: ")


def test_a_server_ends_with_its_parent() -> None:
    code = (
        "import socket, subprocess, sys\n"
        "free = socket.socket(); free.bind(('127.0.0.1', 0)); port = free.getsockname()[1]; free.close()\n"
        "command = [sys.executable, '-P', '-m', 'llmrun.worker.rpc_server', f'127.0.0.1:{port}']\n"
        "server = subprocess.Popen(command, stdout=subprocess.PIPE)\n"
        "server.stdout.readline(); print(server.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        server.wait(timeout=10)  # raises where it lives on


def test_a_failed_load_leaves_a_worker_that_can_try_other_settings(rpc_server: str, tiny_model: Path) -> None:
    with Engine() as engine:
        with pytest.raises(LLMRunError):
            engine.load(tiny_model, replace(ONE_THREAD, type_v="q8_0", flash_attn=False))
        memory = engine.load(tiny_model, replace(ONE_THREAD, devices=(rpc_server,))).memory
        assert memory
        assert memory.devices[0].weights > 0


@pytest.mark.parametrize("limit", [1, 2, 9, 10, 11, 20, 37, 99, 100, 101, 128, 999, 1000, 1205])
def test_an_expression_for_numbers_below_a_limit_matches_them_only(limit: int) -> None:
    import re

    expression = re.compile(numbers_below(limit))
    assert [n for n in range(2000) if expression.fullmatch(str(n))] == list(range(limit))
