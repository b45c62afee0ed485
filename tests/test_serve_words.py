"""What a server says to who starts it, asks it wrongly, or ends it: why, and what to type next."""

from __future__ import annotations

import errno
import http.client
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from llmrun.cli.serve_gate import Gate
from llmrun.cli.serving import ending_line
from llmrun.errors import ContextOverflowError, MisdirectedError, NotFoundError, UsageError
from llmrun.server.app import _METHODS
from llmrun.server.families import openai_error, problem_of
from llmrun.server.keys import parse_key, parse_keys, read_keys
from llmrun.server.near import meant_path, methods_of
from llmrun.server.origins import Doors, check_host
from llmrun.server.reach import names_of, plain_address, reach_lines, read_own_names
from llmrun.server.serving import Address, bind, refused_by
from llmrun.server.tally import Tally
from llmrun.server.watch import line_of
from llmrun.servers.finding import ENDING
from llmrun.servers.note import ServedName, note_left, read_notes
from tests.conftest import figures
from tests.serving import Server, serving
from tests.test_servers import program

CHAT = "/v1/chat/completions"
Run = Callable[..., subprocess.CompletedProcess[str]]
KEY = "a-key-that-nobody-guesses"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    with serving(home, "guide", "--threads", "1", "--host", "0.0.0.0", "--insecure", "--verbose") as running:
        yield running


# ---- where it is


def test_a_machine_is_known_by_its_name_and_by_mdns() -> None:
    assert names_of("Desk.example.org.") == {"desk.example.org", "desk.local"}
    assert names_of("desk") == {"desk", "desk.local"}
    assert names_of("") == frozenset()


def test_where_it_listens_at_all_addresses_the_machines_own_names_are_let_in() -> None:
    everywhere = Gate(insecure=True).policy(Address("0.0.0.0", 8080), pytest.fail)
    assert read_own_names() <= everywhere.doors.hosts
    here = Gate().policy(Address("127.0.0.1", 8080), pytest.fail)
    assert here.doors.hosts == {"127.0.0.1"}


def test_what_is_told_at_the_start_is_what_clients_can_use() -> None:
    assert reach_lines("127.0.0.1", 8080, 4, ()) == [
        "serving at http://127.0.0.1:8080 (4 at once; the page is there too; Ctrl-C ends it)"
    ]
    first, second = reach_lines("0.0.0.0", 8080, 1, ("desk.local", "192.0.2.7"))
    assert first.startswith("serving at http://127.0.0.1:8080 (1 at once; ")
    assert second == "from other machines: http://desk.local:8080 http://192.0.2.7:8080"
    assert reach_lines("::", 8080, 1, ("fd00::1",))[1] == "from other machines: http://[fd00::1]:8080"
    many = reach_lines("::", 8080, 4, ("a-long-name-of-a-machine", "a-long-name-of-a-machine.local", "192.0.2.7"))
    assert len(many) == 3
    assert max(map(len, many)) <= 80


def test_it_answers_to_the_machines_own_name(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    for name, status in [(next(iter(read_own_names())), 200), ("other.example", 421)]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/health", headers={"Host": f"{name}:{port}"})
        answer = connection.getresponse()
        assert answer.status == status
        text = answer.read().decode()
        connection.close()
    assert "--allow-host other.example" in text


def test_who_is_at_another_machine_is_told_an_address_that_it_can_use() -> None:
    with pytest.raises(MisdirectedError) as refused:
        check_host("desk.example:8080", Doors(), "192.0.2.7")
    assert refused.value.hint == "ask it at 192.0.2.7, or start it with --allow-host desk.example"
    with pytest.raises(MisdirectedError) as refused:
        check_host("a/b", Doors(), "127.0.0.1")
    assert refused.value.hint == "ask it at localhost, or start it with --allow-host NAME"


def test_an_ipv4_client_of_an_ipv6_socket_has_its_own_address() -> None:
    assert plain_address("::ffff:192.0.2.7") == "192.0.2.7"
    assert plain_address("fd00::1") == "fd00::1"
    check_host("192.0.2.7", Doors(), plain_address("::ffff:192.0.2.7"))


def test_ps_tells_that_others_reach_it(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    assert figures(program(server.home, "ps", "--json"))["servers"][0]["listens"] == f"http://0.0.0.0:{port}"
    told = program(server.home, "ps").stdout.splitlines()
    assert told[1] == f"  open to other machines: it listens at http://0.0.0.0:{port}"


# ---- where it cannot be


def test_a_port_that_is_taken() -> None:
    with bind(Address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="the port is in use") as refused:
            bind(Address("127.0.0.1", port))
    assert "another server may be there" in str(refused.value.hint)


def test_an_address_that_this_machine_has_not() -> None:
    with pytest.raises(UsageError, match="this machine has no such address") as refused:
        bind(Address("203.0.113.7", 0))
    assert "another server" not in str(refused.value.hint)


@pytest.mark.parametrize(
    ("port", "number", "message", "hint"),
    [
        (80, errno.EACCES, "ports below 1024 are for root", "--port 8080"),
        (8080, errno.EACCES, "Permission denied", "--port 0"),
        (80, errno.EADDRINUSE, "the port is in use", "`llmrun ps`"),
    ],
)
def test_the_hint_fits_the_reason(port: int, number: int, message: str, hint: str) -> None:
    refused = refused_by(Address("127.0.0.1", port), OSError(number, os.strerror(number)))
    assert message in refused.message
    assert hint in str(refused.hint)


# ---- keys


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_key_is_said_to_be_empty(text: str) -> None:
    with pytest.raises(UsageError, match=r"the API key is empty$"):
        parse_key(text)
    with pytest.raises(UsageError, match=r"the API key of 'anna' is empty$"):
        parse_keys(f"anna: {text}\n")


def test_what_is_no_file_of_keys_is_refused_with_what_one_is(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(b"\xff")
    odd.chmod(0o600)
    for path in (tmp_path / "missing", tmp_path, odd):
        with pytest.raises(UsageError) as refused:
            read_keys(path)
        assert "`name: key`" in str(refused.value.hint)


def test_a_short_key_in_a_file_is_warned_of_as_one_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"anna: short\nbert: {KEY}\n")
    file.chmod(0o600)
    told: list[str] = []
    Gate(api_key_file=file).policy(Address("127.0.0.1", 0), told.append)
    Gate(api_key="short").policy(Address("127.0.0.1", 0), told.append)
    rest = "of fewer than 16 characters can be guessed: --api-key new makes one"
    assert told == [f"warning: the API key 'anna' {rest}", f"warning: an API key {rest}"]


@pytest.mark.parametrize("wrong", [("--host", "192.0.2.1"), ("--rate", "often")])
def test_a_new_key_is_told_only_where_there_will_be_a_server(llmrun: Run, wrong: tuple[str, str]) -> None:
    done = llmrun("serve", "guide", "--port", "0", "--api-key", "new", *wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert "API key" not in done.stderr


# ---- requests


def test_a_line_says_from_where_and_with_which_key() -> None:
    scope = {"method": "GET", "path": "/health", "client": ("::ffff:192.0.2.7", 5), "state": {"owner": "anna"}}
    assert re.fullmatch(r"192\.0\.2\.7 GET /health 200 \d+ ms key=anna", line_of(scope, 200, Tally()))
    assert line_of({"method": "GET", "path": "/health", "client": None}, 200, Tally()).startswith("- GET")


def test_who_asks_too_fast_is_named_in_the_log_and_a_context_beyond_the_trained_is_noted(tmp_path: Path) -> None:
    options = ("--verbose", "--rate", "1/hour", "--api-key", KEY, "--ctx", "4096", "--parallel", "2")
    with serving(tmp_path, "guide", "--threads", "1", *options) as running:
        asked = [running.ask(CHAT, {"messages": []}, {"x-api-key": KEY})[0] for _ in range(2)]
        running.process.terminate()
        assert running.process.stderr is not None
        told = running.process.stderr.read()
    assert asked == [400, 429]
    assert re.search(r"^\d\d:\d\d:\d\d 127\.0\.0\.1 POST /v1/chat/completions 429 \d+ ms key=key$", told, re.MULTILINE)
    assert "note: a context of 4,096 tokens is more than the 2,048 the model was trained on\n" in running.said
    assert "plan: n_ctx 8,192: 2 times 4,096, as you said\n" in running.said


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", CHAT),
        ("/v1/v1/chat/completions", CHAT),
        ("/v1/chat/completion", CHAT),
        ("/v1/chat/completions/", CHAT),
        ("/models", "/v1/models"),
        ("/completion", "/v1/completions"),
        ("/v1/engines/davinci/completions", "/v1/completions"),
        ("/v1/api/chat", "/api/chat"),
        ("/tags", "/api/tags"),
        ("/favicon.ico", None),
        ("/v1/", None),
        ("/" + "x" * 5000, None),
    ],
)
def test_a_path_that_is_none_is_answered_with_the_one_that_is_meant(path: str, meant: str | None) -> None:
    assert meant_path(path, _METHODS) == meant


def test_a_path_takes_the_methods_of_all_that_stands_behind_it() -> None:
    assert methods_of(CHAT, _METHODS) == ("POST",)
    assert methods_of("/v1/models/acme/model", _METHODS) == ("GET", "HEAD")
    assert methods_of("/nothing", _METHODS) == ()


def test_clients_are_told_of_path_and_method(server: Server) -> None:
    status, answer = server.ask("/chat/completions", {})
    assert (status, answer["error"]["message"]) == (
        404, f"there is nothing at this path (did you mean {CHAT}?)"
    )  # fmt: skip
    status, answer = server.ask(CHAT)
    assert (status, answer["error"]["message"]) == (405, "this path takes POST, not GET")


def test_openais_clients_are_told_what_they_tell_apart(server: Server) -> None:
    hello = [{"role": "user", "content": "hello"}]
    status, answer = server.ask(CHAT, {"model": "gpt-4o", "messages": hello})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "model_not_found", "model")
    long = "x1 " * 4000
    status, answer = server.ask(CHAT, {"messages": [{"role": "user", "content": long}]})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "context_length_exceeded", "messages")
    status, answer = server.ask("/v1/completions", {"prompt": long})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "context_length_exceeded", "prompt")
    status, answer = server.ask(CHAT, {"messages": "hello"})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, None, None)


def test_the_code_comes_from_the_errors_class() -> None:
    assert openai_error(problem_of(NotFoundError("none")))["error"]["code"] == "model_not_found"
    assert openai_error(problem_of(ContextOverflowError("long")))["error"]["code"] == "context_length_exceeded"
    assert openai_error(problem_of(UsageError("odd")))["error"]["code"] is None


def test_an_empty_body_is_said_to_be_empty(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", CHAT, b"", {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 400
    assert "the body is empty" in answer.read().decode()
    connection.close()


# ---- models


def test_the_context_of_all_is_told_as_that_of_each(server: Server) -> None:
    assert "plan: n_ctx 8,192: 4 times 2,048, all that the model was trained on\n" in server.said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve", "guide:Q9"), "`guide` alone is Q8_0"),
        (("serve", "./nofile.gguf"), "the model `guide` needs no file"),
        (("stop",), "`llmrun serve` starts one"),
        (("stop", "guide:Q9"), "`llmrun serve` starts one"),
        (("serve", "--api-key", ""), "the API key is empty"),
    ],
)
def test_hints_fit_the_command(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = program(tmp_path, *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "llmrun chat" not in done.stderr


def test_a_model_is_stopped_by_the_name_that_ps_lists(tmp_path: Path, endless_model: Path) -> None:
    file = tmp_path / "a b.gguf"
    file.symlink_to(endless_model)
    with serving(tmp_path, str(file), "--threads", "1", "--ctx", "8192") as running:
        assert figures(program(tmp_path, "ps", "--json"))["servers"][0]["loaded"][0]["name"] == "a b"
        assert program(tmp_path, "stop", "a b").stderr == f"a b is unloaded from the server at {running.url}\n"
        assert "guide:Q9 is not loaded in any server" in program(tmp_path, "stop", "guide:Q9").stderr


# ---- its end


def test_what_is_to_be_finished_is_told_and_ps_sees_it_until_the_end(tmp_path: Path, endless_model: Path) -> None:
    with serving(tmp_path, str(endless_model), "--threads", "1", "--ctx", "8192") as running:
        client = begun(running)
        running.process.send_signal(signal.SIGTERM)
        assert line_with(running.process.stderr, "ending") == (
            "ending: 1 answer is being written (again Ctrl-C ends it now)\n"
        )
        assert ENDING in program(tmp_path, "ps").stdout
        stopping = threading.Thread(target=program, args=(tmp_path, "stop"))
        stopping.start()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=20) == 0
        stopping.join()
        client.close()
    assert "no server is running" in program(tmp_path, "ps").stderr


def begun(running: Server) -> socket.socket:
    """A client whose endless answer has begun to come."""
    body = b'{"messages": [{"role": "user", "content": "hello"}], "stream": true}'
    client = socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=30)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    received = b""
    while b"tick" not in received:
        received += client.recv(65536)
    return client


def line_with(lines: IO[str] | None, words: str) -> str:
    assert lines is not None
    return next(line for line in lines if words in line)


def test_where_nothing_is_written_nothing_is_told() -> None:
    assert ending_line(()) is None


def test_the_end_of_its_terminal_ends_it_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, "guide", "--threads", "1") as running:
        running.process.send_signal(signal.SIGHUP)
        assert running.process.wait(timeout=20) == 0


def test_a_note_says_that_its_server_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    names = (ServedName("guide", "guide"),)
    with note_left("http://127.0.0.1:1", "secret", names, pytest.fail, listens="http://0.0.0.0:1") as note:
        (before,) = read_notes()
        note.end()
        (after,) = read_notes()
    assert (before.ending, after.ending, after.listens) == (False, True, "http://0.0.0.0:1")
    assert read_notes() == ()
