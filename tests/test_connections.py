"""worker.connections: which of a process's connections to lenders are lost, and which are only quiet."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmrun.worker.connections import Connections, _copied
from tests import netns
from tests.lent import linux_only
from tests.netns import Machine, machines, other_machines


@pytest.fixture
def make_machine() -> Iterator[Callable[[], Machine]]:
    with machines() as make:
        yield make


def stuff(connection: socket.socket) -> None:
    """Send until the other side takes no more."""
    connection.setblocking(False)
    quiet = 0
    while quiet < 20:
        try:
            connection.send(bytes(1 << 16))
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)


@linux_only
def test_who_reads_nothing_is_not_lost_and_who_hangs_up_is() -> None:
    heard: list[str] = []
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as reads_nothing,
        closing(socket.create_server(("127.0.0.1", 0))) as hangs_up,
    ):
        connections = Connections(heard.append)
        ends = []
        for name, server in (("rpc:reads-nothing", reads_nothing), ("rpc:hangs-up", hangs_up)):
            host, port = server.getsockname()
            connections.know(host, port, name)
            ends.append((socket.create_connection((host, port)), server.accept()[0]))
        (stuffed, unread), (idle, other) = ends
        stuff(stuffed)
        time.sleep(2.6)
        assert (heard, connections.lost()) == ([], ())
        other.close()
        assert connections.lost() == ("rpc:hangs-up",)
        idle.close()
        assert connections.lost() == ()  # what is closed is no connection any more
        unread.close()  # with much that was not read: a reset
        assert connections.lost() == ("rpc:reads-nothing",)
        stuffed.close()


@linux_only
def test_a_look_that_finds_no_file_free_is_followed_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        connections = Connections(lambda _: heard.set())
        looked = threading.Semaphore(0)

        def none_free(_: Path) -> Iterator[Path]:
            if threading.current_thread() is connections._thread:
                looked.release()
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as full:
            full.setattr(Path, "iterdir", none_free)
            connections.know("127.0.0.1", server.getsockname()[1], "rpc:a")
            assert looked.acquire(timeout=5)
            assert looked.acquire(timeout=5)
        with closing(socket.create_connection(server.getsockname())):
            server.accept()[0].close()
            assert heard.wait(10)


def open_files() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


@linux_only
def test_no_copy_stays_open_of_a_number_that_another_file_has_taken(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        number, inode = file.fileno(), os.fstat(file.fileno()).st_ino
        open_before = open_files()
        for expected, why in ((inode, "non-socket"), (inode + 1, "another file has taken its number")):
            with pytest.raises(OSError, match=why), _copied(number, expected):
                pass
        assert open_files() == open_before


@other_machines
def test_machines_made_at_once_are_in_networks_of_their_own(
    make_machine: Callable[[], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns, "_WIRE_NUMBERS", itertools.count())
    ours = ipaddress.ip_network(f"{make_machine().id[4:].partition(':')[0]}/30", strict=False)
    monkeypatch.setattr(netns, "_WIRE_NUMBERS", itertools.count())  # as of a process that chose the same number
    address, _ = netns.wire_addresses()
    assert ipaddress.ip_address(address) not in ours


@other_machines
def test_a_machine_that_is_cut_off_is_lost_though_nobody_sends_anything(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    host, _, port = machine.id.removeprefix("rpc:").rpartition(":")
    connections = Connections(lambda _: None)
    with closing(socket.create_connection((host, int(port)))) as idle:
        connections.know(host, int(port), "rpc:idle")
        assert connections.lost() == ()
        machine.network.is_cut = True
        begun = time.monotonic()
        while not connections.lost():
            assert time.monotonic() - begun < 3
            time.sleep(0.05)
        assert idle.getpeername() == (host, int(port))  # TCP itself has noticed nothing
