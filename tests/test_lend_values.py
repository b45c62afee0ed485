"""What a lender refuses before it lends, what it keeps of tensors, how it counts borrowers and signs requests."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.lend_options import LendOptions
from llmrun.cli.lending import LendWish, keeps_tensors, run_lend
from llmrun.errors import EngineError, UnauthorizedError, UsageError
from llmrun.hardware.connections import read_clients
from llmrun.hardware.resident import parse_rss_anon
from llmrun.lending.address import Reach, check_reach, listen, reach_of
from llmrun.lending.borrower import Borrowing, Look, follow
from llmrun.lending.cache import TensorCache
from llmrun.lending.device_server import DeviceServer, Lending
from llmrun.lending.key import read_key
from llmrun.lending.lender import pause_after
from llmrun.lending.status import (
    MEASURING_BYTES,
    SECONDS_VALID,
    LentDevice,
    Status,
    check_signature,
    encode_status,
    parse_status,
    sign,
    status_port,
)
from llmrun.lending.telling import Place, Terms, opening_lines, warning_lines

KEY = b"sixteen bytes or more"
CPU = LentDevice("CPU", "AMD EPYC", "CPU", "CPU", total=6 << 30, free=5 << 30)
STATUS = Status("0.1.0", "0.3.36", "7.0", "attic", (CPU,), cache=True, client="10.0.0.5")


def refused(**options: object) -> UsageError:
    """Why `llmrun lend` with these options does not begin."""
    with pytest.raises(UsageError) as error:
        run_lend(LendWish(replace(LendOptions(port=0), **options), json=False, quiet=True, verbose=False))  # type: ignore[arg-type]
    return error.value


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("127.0.0.1", Reach.LOOPBACK),
        ("127.8.8.8", Reach.LOOPBACK),
        ("10.1.2.3", Reach.PRIVATE),
        ("172.31.255.255", Reach.PRIVATE),
        ("192.168.1.7", Reach.PRIVATE),
        ("169.254.1.1", Reach.PRIVATE),
        ("172.32.0.1", Reach.PUBLIC),
        ("100.64.0.1", Reach.PUBLIC),
        ("8.8.8.8", Reach.PUBLIC),
        ("0.0.0.0", Reach.PUBLIC),
    ],
)
def test_who_can_reach_an_address(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach
    assert check_reach("name", address, trusted=True) is reach


@pytest.mark.parametrize("host", ["0.0.0.0", "8.8.8.8"])
def test_a_public_address_needs_a_word_more(host: str) -> None:
    error = refused(host=host)
    assert host in error.message
    assert "--i-trust-this-network" in (error.hint or "")


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("::1", "is an IPv6 address, and llama.cpp lends devices by IPv4 alone"),
        ("localhost:50052", "localhost:50052 has a port in it"),
        ("no.such.host.invalid", "is no address of this machine"),
        ("10.255.255.254", "this machine has no such address"),
    ],
)
def test_a_host_that_is_not_this_machine_is_refused(host: str, said: str) -> None:
    assert said in refused(host=host).message


def test_a_port_that_is_taken_is_told_with_who_has_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"127.0.0.1:{port}: " in refused(port=port).message
        assert f"(pid {os.getpid()}) does" in refused(port=port).message


def test_the_port_of_the_status_may_be_taken_too() -> None:
    port, status = listen("127.0.0.1", 0)
    with status:
        assert f"127.0.0.1:{port + 1}: " in refused(port=port).message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": "6"}, "--memory 6 B is too little"),
        ({"memory": "6 parsecs"}, "parsecs"),
        ({"memory": "900TiB"}, "900.0 TiB of CPU cannot be lent: it has "),
        ({"device": ["CUDA7"]}, "this machine has no device 'CUDA7'"),
        ({"key_file": Path("/nowhere/at/all")}, "/nowhere/at/all, which should hold a key, cannot be read"),
    ],
)
@pytest.mark.usefixtures("own_folders")
def test_what_cannot_be_lent_is_refused(options: dict[str, object], said: str) -> None:
    assert said in refused(cache=False, **options).message


def test_two_ports_are_found_where_none_is_named() -> None:
    port, listener = listen("127.0.0.1", 0)
    with listener:
        assert listener.getsockname()[1] == port + 1 == status_port(port)


@pytest.mark.parametrize("port", [0, -1, 65535, 70000])
def test_the_last_port_has_none_after_it(port: int) -> None:
    with pytest.raises(UsageError, match="no port after it"):
        status_port(port)


def test_a_key_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_bytes(b"  " + KEY + b"\n")
    assert read_key(file) == KEY
    file.chmod(0o640)
    with pytest.raises(UsageError, match="mode 640"):
        read_key(file)
    file.chmod(0o600)
    file.write_text("short\n")
    with pytest.raises(UsageError, match="can be guessed"):
        read_key(file)


@given(
    st.binary(min_size=16, max_size=64), st.sampled_from(["GET", "POST"]), st.text(max_size=40), st.integers(0, 10**11)
)
def test_a_signature_holds_for_its_request_and_its_time(key: bytes, method: str, target: str, now: int) -> None:
    header = sign(key, method, target, now)
    check_signature(key, method, target, header, now + SECONDS_VALID)
    check_signature(key, method, target, header, now - SECONDS_VALID)
    for changed in (
        (key + b"x", method, target, header, now),
        (key, method + "X", target, header, now),
        (key, method, target + "x", header, now),
        (key, method, target, header, now + SECONDS_VALID + 1),
        (key, method, target, header.replace("time=", "time=1"), now),
        (key, method, target, None, now),
    ):
        with pytest.raises(UnauthorizedError):
            check_signature(*changed)


def test_a_status_comes_through_json_as_it_was() -> None:
    assert parse_status(encode_status(STATUS)) == STATUS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b"[" * 100_000,
        encode_status(Status("0", "0", "7.0", "attic", (), cache=True)),
        encode_status(STATUS).replace(b'"free":5368709120', b'"free":-1'),
        encode_status(STATUS).replace(b'"free":5368709120', b'"free":99999999999999'),
    ],
    ids=range(8),
)
def test_what_is_no_status_is_refused(data: bytes) -> None:
    with pytest.raises(EngineError):
        parse_status(data)


def test_a_borrower_is_told_once_it_has_settled_and_when_it_goes() -> None:
    peer = ("10.0.0.5", 40000)
    looks = [Look(peer, 0), Look(peer, 1 << 30), Look(peer, 1 << 30), Look(peer, 2 << 30), Look(peer, 2 << 30)]
    known: Borrowing | None = None
    told = []
    for second, look in enumerate((*looks, Look(None, 0), Look(None, 0))):
        known, lines = follow(known, look, float(second))
        told += [(second, line) for line in lines]
    assert told == [
        (2, "10.0.0.5 has borrowed 1.0 GiB"),
        (5, "10.0.0.5 has gone: it had up to 2.0 GiB, for 5.00 s; all is free again"),
    ]


def test_who_only_asks_is_not_told_of_and_the_next_one_is_another() -> None:
    first, second = ("10.0.0.5", 1), ("10.0.0.6", 1)
    known, lines = follow(None, Look(first, 0), 0.0)
    assert lines == ()
    for second_of_measuring in (0.4, 0.8):
        known, lines = follow(known, Look(first, MEASURING_BYTES), second_of_measuring)
        assert lines == ()
    known, lines = follow(known, Look(second, 5 << 20), 1.0)
    assert (lines, known) == ((), Borrowing(second, 1.0, 5 << 20, 5 << 20))
    known, lines = follow(known, Look(second, 5 << 20), 2.0)
    assert lines == ("10.0.0.6 has borrowed 5.0 MiB",)
    known, lines = follow(known, Look(first, 0), 3.0)
    assert lines == ("10.0.0.6 has gone: it had up to 5.0 MiB, for 2.00 s; all is free again",)


def tensor(folder: Path, number: int, size: int, age: int = 0) -> Path:
    """A file as ggml makes it, used so many seconds ago."""
    file = folder / f"{number:016x}"
    file.write_bytes(bytes(size))
    os.utime(file, (1e9 - age, 1e9 - age))
    return file


def test_tensors_that_may_not_be_whole_go(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "tensors")
    assert cache.open() is None
    whole = tensor(cache.path, 1, 100)
    cache.settle()
    cut, changed = tensor(cache.path, 2, 50), tensor(cache.path, 3, 70)
    (cache.path / "notes.txt").write_text("of somebody else")
    assert cache.open() is None
    assert (whole.exists(), cut.exists(), changed.exists()) == (True, False, False)
    whole.write_bytes(bytes(99))
    cache.open()
    assert sorted(file.name for file in cache.path.iterdir()) == ["lock", "notes.txt", "whole.json"]
    assert TensorCache(cache.path).open() == f"another lender of this machine uses {cache.path}"
    cache.close()
    assert TensorCache(cache.path).open() is None


def test_what_is_written_while_it_is_looked_at_is_not_noted(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "tensors")
    cache.open()
    half, other = tensor(cache.path, 1, 50), tensor(cache.path, 2, 50)
    cache.settle(lambda: half.write_bytes(bytes(60)) == 60)
    cache.open()
    assert (half.exists(), other.exists()) == (False, True)
    unknown = tensor(cache.path, 3, 50)
    cache.settle(lambda: False)
    cache.open()
    assert (unknown.exists(), other.exists()) == (False, True)


def test_what_came_while_the_disk_was_full_goes_though_it_was_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TensorCache(tmp_path / "tensors")
    cache.open()
    whole = tensor(cache.path, 1, 100)
    cache.settle()
    cut = tensor(cache.path, 2, 50)
    with monkeypatch.context() as full:
        full.setattr("llmrun.lending.cache._NEARLY_FULL", 1 << 62)
        cache.bound()
    cache.settle()
    assert (whole.exists(), cut.exists()) == (True, False)
    later = tensor(cache.path, 3, 70)
    cache.settle()
    cache.open()
    assert later.exists()


def test_who_hung_up_counts_until_the_connection_is_closed_here_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        known, (accepted, _) = client.getsockname(), listener.accept()
        client.close()
        assert accepted.recv(1) == b""
        assert read_clients(os.getpid(), port) == (known,)
        accepted.close()
        assert read_clients(os.getpid(), port) == ()


def test_what_is_too_much_goes_while_somebody_borrows(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "tensors", most=250)
    cache.open()
    for number in range(4):
        tensor(cache.path, number, 100, age=300 - number)
        cache.bound()
    assert sorted(file.name[-1] for file in cache.path.iterdir() if len(file.name) == 16) == ["2", "3"]


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "tensors", most=250)
    cache.open()
    old, new, middle = (tensor(cache.path, number, 100, age) for number, age in ((1, 300), (2, 100), (3, 200)))
    cache.settle()
    assert (old.exists(), middle.exists(), new.exists(), cache.size) == (False, True, True, 200)
    assert cache.clear() == (2, 200)
    assert cache.size == 0


def test_a_folder_that_others_made_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "tensors").symlink_to(tmp_path)
    assert TensorCache(tmp_path / "tensors").open() == f"{tmp_path / 'tensors'} is not this user's alone"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (
            Place("127.0.0.1", 50052, Reach.LOOPBACK),
            "  ssh -N -o ServerAliveInterval=1 -o ServerAliveCountMax=2 \\\n    -o ExitOnForwardFailure=yes \\\n"
            "    -L 50052:127.0.0.1:50052 -L 50053:127.0.0.1:50053 USER@HOST\n",
        ),
        (Place("192.168.1.7", 50052, Reach.PRIVATE), "llmrun chat MODEL --device rpc:192.168.1.7:50052"),
        (Place("0.0.0.0", 65534, Reach.PUBLIC, ("203.0.113.9",)), "--device rpc:203.0.113.9:65534"),
    ],
)
def test_what_is_told_fits_a_terminal_and_says_what_to_type(place: Place, words: str) -> None:
    terms = Terms(threads=8, key=True, cached=3 << 30, folder="/home/anna/.cache/llmrun/tensors")
    lines = [*opening_lines(STATUS, place, terms), *warning_lines(place)]
    assert max(map(len, lines)) <= 80
    assert words in "\n".join(lines)
    assert lines[0] == "lending 6.0 GiB of CPU, 5.0 GiB free now, 8 threads (AMD EPYC)"
    assert "not encrypted and asks for no password" in " ".join(lines)


def test_a_server_that_dies_again_and_again_is_started_later_each_time() -> None:
    assert [pause_after(deaths) for deaths in range(1, 10)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert pause_after(1 << 20) == 60


def test_a_server_that_is_not_wanted_any_more_is_not_waited_for() -> None:
    port, listener = listen("127.0.0.1", 0)
    with listener, pytest.raises(EngineError, match="not wanted any more"):
        DeviceServer(Lending("127.0.0.1", port, ("CPU",), None, 1, None), lambda _: None, lambda: False)


@pytest.mark.parametrize(
    ("wish", "reach", "keeps"),
    [
        (None, Reach.LOOPBACK, True),
        (None, Reach.PRIVATE, True),
        (None, Reach.PUBLIC, False),
        (True, Reach.PUBLIC, True),
        (False, Reach.LOOPBACK, False),
    ],
)
def test_what_anybody_may_have_left_is_kept_only_on_demand(wish: bool | None, reach: Reach, keeps: bool) -> None:
    assert keeps_tensors(wish, reach) is keeps


def test_anonymous_memory_is_read_from_the_status_of_a_process() -> None:
    assert parse_rss_anon("VmRSS:\t   45788 kB\nRssAnon:\t   24204 kB\nRssFile:\t 1 kB\n") == 24204 << 10
    assert parse_rss_anon("VmRSS:\t   45788 kB\n") is None
