"""lenders and links beside real lenders: who says too little, and who is another at the same address."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from llmrun import lenders as asking
from llmrun.cli.hardware import run_hardware
from llmrun.cli.machine_options import MachineOptions
from llmrun.engine.protocol import Measure
from llmrun.engine.rpc_hello import say_hello
from llmrun.errors import EngineError, UsageError
from llmrun.hardware.device import Device, Lender
from llmrun.hardware.fingerprint import read_fingerprint
from llmrun.hardware.link import USUAL_LINK, Link
from llmrun.lenders import ask_status
from llmrun.links import Links, Road
from llmrun.measurements import Measurements
from llmrun.planning.lent import in_words, whose
from llmrun.planning.plan import Whose
from llmrun.planning.rates import BaseCosts, Cost, Needs, Rates
from llmrun.settings import RunSettings
from tests.lent import linux_only


@linux_only
@pytest.mark.parametrize("drips", [False, True])
def test_a_lender_that_says_too_little_is_not_waited_for(drips: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its devices can be had, no more is known than of a server of llama.cpp's own."""
    monkeypatch.setattr(asking, "PATIENCE", 0.3)
    with silent(drips=drips) as dumb:
        began = time.monotonic()
        assert ask_status(dumb.address, None) is None
        assert time.monotonic() - began < 2.5  # while every byte of it that comes would be waited for anew
        with dumb.full(), pytest.raises(EngineError, match=rf"{dumb.address} did not answer in 0.3 seconds") as slow:
            ask_status(dumb.address, None)
    assert dumb.address.rpartition(":")[2] in str(slow.value.hint)


@dataclass
class Silent:
    """A server whose status endpoint says next to nothing."""

    rpc: socket.socket
    address: str

    @contextmanager
    def full(self) -> Iterator[None]:
        """Let it take no connection any more."""
        self.rpc.listen(0)
        with ExitStack() as clients:
            for _ in range(4):
                client = clients.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(self.rpc.getsockname())
            yield


@contextmanager
def silent(*, drips: bool) -> Iterator[Silent]:
    """drips: it sends a byte of an answer that has no end now and then."""
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as rpc:
            port = rpc.getsockname()[1]
            with suppress(OSError), socket.create_server(("127.0.0.1", port + 1)) as status:
                thread = threading.Thread(target=drip, args=[status], daemon=True)
                if drips:
                    thread.start()
                yield Silent(rpc, f"127.0.0.1:{port}")
                return


def drip(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection = server.accept()[0]
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
                for _ in range(100):
                    connection.sendall(b" ")
                    time.sleep(0.1)


def test_a_handshake_that_drips_is_not_waited_for() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(bytes(20))
        with pytest.raises(TimeoutError):
            say_hello(here, 0.1)
        there.close()
        with pytest.raises(OSError), here:  # noqa: PT011 - whatever the system calls a connection that is gone
            say_hello(here, 0.1)


def test_what_is_known_of_a_lender_is_not_believed_of_another_at_its_address(tmp_path: Path) -> None:
    """As through SSH, where each is 127.0.0.1 in turn."""
    one, other = (
        Device("rpc:127.0.0.1:50052", "RPC", "a card", 1, 1, lender=Lender("127.0.0.1:50052", USUAL_LINK, host))
        for host in ("box", "attic")
    )
    assert one.known_as == replace(one, total=9, free=0).known_as != other.known_as
    assert replace(one, lender=Lender("127.0.0.1:50052", USUAL_LINK)).known_as == one.id  # nobody told who it is
    asked: list[Measure] = []

    def measure(question: Measure) -> Rates:
        asked.append(question)
        return Rates(BaseCosts(*[Cost(1e-6)] * 3))

    measurements = Measurements(measure, read_fingerprint(), tmp_path)
    settings = RunSettings(n_threads=1, n_threads_batch=1)
    for device in (one, other, one):
        measurements.rates(Needs(), settings, device=device)
    assert [question.settings.devices for question in asked] == [("rpc:127.0.0.1:50052",)] * 2
    links = Links(tmp_path)
    road = Road("127.0.0.1:1", None, has_status=True, is_idle=True, who="box")
    links._path(road).write_text(json.dumps(asdict(Link(1e-3, 1e6, 2e6))))  # type: ignore[union-attr]
    assert links.link(road) == Link(1e-3, 1e6, 2e6)
    assert links.link(replace(road, who="attic")) is None


@pytest.mark.parametrize("name", ["CUDA0", "rpc:127.0.0.1:50052=6GiB", "none"])
def test_only_devices_of_other_machines_are_looked_at_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"--device {name} is not of another machine"):
        run_hardware(MachineOptions(device=[name]), as_json=False, quiet=True)


@pytest.mark.parametrize(
    ("lent", "owner", "words"),
    [
        ((), "own", "all on the GPU"),
        ((False,), "own", "all on the GPU"),
        ((True, True), "lent", "all on other machines"),
        ((False, True), "both", "all on devices"),
    ],
)
def test_texts_say_whose_devices_are(lent: tuple[bool, ...], owner: Whose, words: str) -> None:
    lender = Lender("127.0.0.1:50052", USUAL_LINK)
    assert whose(Device("one", "RPC", "a card", 1, 1, lender=lender if one else None) for one in lent) == owner
    assert in_words("all on the GPU", owner) == words
