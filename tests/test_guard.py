"""Safe by default: who may ask the server, and what it does with everybody else. The real program, raw sockets."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Server, serving

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "What is a KV cache?"}], "temperature": 0, "max_tokens": 3}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = ("guide", "--threads", "1", "--allow-origin", "https://app.example.org", "--allow-host", "llm.example")
    with serving(tmp_path_factory.mktemp("home"), *arguments, "--max-body", "64 KiB") as running:
        yield running


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("keys")
    file = home / "keys"
    file.write_text("# who may ask\nanna: a-key-that-nobody-guesses\nbert: another-key-nobody-guesses\n")
    file.chmod(0o600)
    with serving(home, "guide", "--threads", "1", "--api-key-file", str(file), "--rate", "5/hour") as running:
        yield running


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def exchange(server: Server, data: bytes) -> bytes:
    """Send bytes as they are and return everything that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=30) as client:
        client.sendall(data)
        received = b""
        while more := client.recv(65536):
            received += more
    return received


def status_of(server: Server, head: str, body: bytes = b"") -> int:
    """The status of an answer to a request whose head is written out."""
    return int(exchange(server, head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body).split(b" ", 2)[1])


def get(host: str, *lines: str) -> str:
    return "\n".join([f"GET /health HTTP/1.1\nHost: {host}\nConnection: close", *lines])


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9", "127.0.0.1:1", "127.1.2.3", "[::1]:80", "llm.example:443"]
)
def test_it_answers_to_its_own_names(server: Server, host: str) -> None:
    assert status_of(server, get(host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8080",
        "localhost.attacker.example",
        "127.0.0.1.nip.io",
        "169.254.1.1",
        "0",
        "2130706433",
        "localhost@attacker.example",
        "localhost/..",
        "[::ffff:8.8.8.8]",
        "",
    ],
)
def test_a_name_that_was_made_to_resolve_here_is_refused(server: Server, host: str) -> None:
    """DNS rebinding: the browser asks 127.0.0.1 for a page of the attacker's name."""
    assert status_of(server, get(host)) == 421


def test_a_request_without_a_host_is_refused(server: Server) -> None:
    assert status_of(server, "GET /health HTTP/1.0") == 421


@pytest.mark.parametrize(
    "origin",
    [
        "http://attacker.example",
        "null",
        "http://localhost:1",
        "https://localhost",
        "http://app.example.org",
        "file://",
        "x",
    ],
)
def test_a_page_of_another_site_is_refused(server: Server, origin: str) -> None:
    assert status_of(server, get("localhost", f"Origin: {origin}")) == 403
    status, answer = server.ask(CHAT, HELLO, {"Origin": origin})
    assert status == 403
    assert "may not ask this server" in answer["error"]["message"]
    head = f"OPTIONS {CHAT} HTTP/1.1\nHost: localhost\nConnection: close\nOrigin: {origin}"
    preflight = f"{head}\nAccess-Control-Request-Method: POST"
    assert status_of(server, preflight) == 403


def test_its_own_page_may_ask(server: Server) -> None:
    assert server.ask("/health", headers={"Origin": server.url})[0] == 200


@pytest.mark.parametrize("relation", ["cross-site", "same-site"])
def test_what_another_sites_page_loads_is_refused_and_a_link_is_not(server: Server, relation: str) -> None:
    site = f"Sec-Fetch-Site: {relation}"
    assert status_of(server, get("localhost", site, "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image")) == 403
    assert status_of(server, get("localhost", site, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe")) == 403
    assert status_of(server, get("localhost", site, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")) == 200


def test_a_site_that_was_named_may_ask_and_nobody_else_reads_the_answer(server: Server) -> None:
    origin = "Origin: https://app.example.org"
    wish = "Access-Control-Request-Method: POST\nAccess-Control-Request-Headers: authorization,content-type"
    preflight = exchange(
        server,
        f"OPTIONS {CHAT} HTTP/1.1\nHost: localhost\nConnection: close\n{origin}\n{wish}\n\n".replace(
            "\n", "\r\n"
        ).encode(),
    ).lower()
    assert preflight.startswith(b"http/1.1 204")
    assert b"access-control-allow-origin: https://app.example.org\r\n" in preflight
    assert b"access-control-allow-headers: authorization,content-type\r\n" in preflight
    answer = exchange(server, (get("localhost", origin) + "\n\n").replace("\n", "\r\n").encode()).lower()
    assert b"access-control-allow-origin: https://app.example.org\r\n" in answer
    assert b"vary: origin\r\n" in answer
    assert b"access-control-allow-origin" not in exchange(server, f"{get('localhost')}\r\n\r\n".encode()).lower()


def post(kind: str | None, body: bytes, *lines: str, length: int | None = None) -> bytes:
    named = [f"Content-Type: {kind}"] if kind is not None else []
    size = [] if length == -1 else [f"Content-Length: {len(body) if length is None else length}"]
    head = [f"POST {CHAT} HTTP/1.1", "Host: localhost", "Connection: close", *named, *size, *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "text/plain; application/json",
        "application/jsonp",
    ],
)
def test_what_a_form_could_post_is_refused(server: Server, kind: str | None) -> None:
    answer = exchange(server, post(kind, json.dumps(HELLO).encode()))
    assert answer.startswith(b"HTTP/1.1 415")
    assert b"application/json" in answer


def test_json_is_taken_however_its_kind_is_written(server: Server) -> None:
    answer = exchange(server, post('Application/JSON; Charset="UTF-8"', json.dumps(HELLO).encode()))
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [200_000, 70_000])
def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_so(server: Server, sent: int) -> None:
    said = exchange(server, post("application/json", b" " * sent))
    assert said.startswith(b"HTTP/1.1 413")
    chunk = b"%x\r\n%s\r\n" % (1000, b" " * 1000)
    chunks = chunk * (sent // 1000) + b"0\r\n\r\n"
    counted = exchange(server, post("application/json", chunks, "Transfer-Encoding: chunked", length=-1))
    assert counted.startswith(b"HTTP/1.1 413")
    assert b"64.0 KiB" in counted


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[" * 60_000,
        b'{"messages":' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"messages":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
        b"\xff\xfe{}",
        b'{"messages": [{"role": "user", "content": "\xc3"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": 1e999}',
        b'{"messages": [], "model": 5}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_no_request_is_refused_with_the_reason(server: Server, body: bytes) -> None:
    answer = exchange(server, post("application/json", body))
    assert answer.startswith(b"HTTP/1.1 400"), answer[:300]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_every_answer_tells_browsers_to_keep_to_it(server: Server) -> None:
    for path in (b"/health", b"/nothing"):
        answer = exchange(server, b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path).lower()
        for header in (
            b"x-content-type-options: nosniff",
            b"referrer-policy: no-referrer",
            b"cache-control: no-store",
            b"frame-ancestors 'none'",
        ):
            assert header in answer
        assert b"\r\nserver:" not in answer


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
    ids=lambda junk: repr(junk[:20]),
)
def test_what_is_no_http_is_refused_and_harms_nobody(server: Server, junk: bytes) -> None:
    assert exchange(server, junk).startswith(b"HTTP/1.1 400")
    assert server.ask("/health")[0] == 200


@pytest.mark.parametrize("size", [40_000, 300_000])
def test_a_head_that_is_too_large_is_refused(server: Server, size: int) -> None:
    """Whether its end came with it or not."""
    try:
        assert status_of(server, get("localhost", "X: " + "a" * size)) in (400, 431)
    except ConnectionResetError:  # it does not wait for the rest, and the system forgets what it answered
        assert size > 100_000


def test_junk_behind_a_request_is_no_second_one(server: Server) -> None:
    good = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answers = exchange(server, good + good + b"\xff\xfe\r\n\r\n")
    assert answers.count(b"HTTP/1.1 200") == 2
    assert server.ask("/health")[0] == 200


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "path", ["/v1/models", "/metrics", "/nothing", CHAT, "/health/", "//health", "/page/", "/docs"]
)
def test_only_health_and_the_static_page_are_free_of_the_key(keyed: Server, path: str) -> None:
    assert keyed.ask("/health") == (200, {"status": "ok"})
    status, answer = keyed.ask(path)
    assert status == 401
    assert "API key" in answer["error"]["message"]


@pytest.mark.parametrize("wrong", ["", "a-key-that-nobody-guesse", "a-key-that-nobody-guesses2", "anna", "ключ"])
def test_a_wrong_key_is_refused(keyed: Server, wrong: str) -> None:
    sent = base64.b64encode(f"x:{wrong}".encode()).decode()
    assert keyed.ask("/metrics", headers={"Authorization": f"Basic {sent}"})[0] == 401
    if wrong.isascii():
        assert keyed.ask("/metrics", headers=bearer(wrong))[0] == 401
        assert keyed.ask("/metrics", headers={"x-api-key": wrong})[0] == 401


def test_a_key_comes_as_a_bearers_as_x_api_key_or_as_a_browsers_password(keyed: Server) -> None:
    key = "another-key-nobody-guesses"
    basic = base64.b64encode(f"me:{key}".encode()).decode()
    for headers in (bearer(key), {"x-api-key": key}, {"Authorization": f"Basic {basic}"}):
        assert keyed.ask("/metrics", headers=headers)[0] == 200


def test_a_browser_is_asked_for_the_key_and_a_program_is_not(keyed: Server) -> None:
    start = b"GET /docs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    person = exchange(keyed, start + b"Accept: text/html,*/*\r\nSec-Fetch-Mode: navigate\r\n\r\n").lower()
    program = exchange(keyed, start + b"Accept: text/html,*/*\r\nSec-Fetch-Mode: cors\r\n\r\n").lower()
    assert b"www-authenticate: basic " in person
    assert b"www-authenticate: bearer\r\n" in program


def test_who_asks_too_often_is_told_when_to_ask_again_and_others_go_on(keyed: Server) -> None:
    answers = [keyed.ask(CHAT, {"messages": 1}, bearer("a-key-that-nobody-guesses")) for _ in range(6)]
    assert [status for status, _ in answers] == [400] * 5 + [429]
    assert answers[-1][1]["error"]["type"] == "rate_limit_error"
    body = b"{}"
    sent = post("application/json", body, "Authorization: Bearer a-key-that-nobody-guesses")
    seconds = int(exchange(keyed, sent).lower().partition(b"retry-after: ")[2].split(b"\r\n")[0])
    assert 600 <= seconds <= 720  # five an hour
    assert keyed.ask(CHAT, {"messages": 1}, bearer("another-key-nobody-guesses"))[0] == 400


def test_another_address_needs_a_key_or_a_word_for_it(tmp_path: Path) -> None:
    refused = serving(tmp_path, "guide", "--threads", "1", "--host", "0.0.0.0")
    with pytest.raises(AssertionError, match=r"error: 0\.0\.0\.0 can be reached from other machines"), refused:
        pass
    with serving(tmp_path, "guide", "--threads", "1", "--host", "0.0.0.0", "--insecure") as running:
        assert running.ask("/health")[0] == 200
    assert running.process.returncode == 0


def test_it_ends_in_order_and_the_answer_that_is_begun_comes_whole(tmp_path: Path) -> None:
    with serving(tmp_path, "guide", "--threads", "1") as running:
        body = json.dumps(HELLO | {"max_tokens": 200}).encode()
        with socket.create_connection(("127.0.0.1", port_of(running)), timeout=30) as client:
            # the head in two parts: the second goes when the server has been told to end
            client.sendall(post("application/json", body)[: -len(body)])
            deadline = time.monotonic() + 20
            while b"in_flight 2.0" not in running.ask("/metrics")[1].encode() and time.monotonic() < deadline:
                pass
            running.process.terminate()
            client.sendall(body)
            received = b""
            while more := client.recv(65536):
                received += more
        assert running.process.wait(timeout=20) == 0
    assert received.startswith(b"HTTP/1.1 200")
    assert "cache" in json.loads(received.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"]


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, "guide", "--threads", "1", "--grace", "600") as running:
        head = post("application/json", b"", length=5)
        with socket.create_connection(("127.0.0.1", port_of(running)), timeout=30) as client:
            client.sendall(head)
            while b"in_flight 2.0" not in running.ask("/metrics")[1].encode():
                pass
            running.process.terminate()
            time.sleep(0.5)
            assert running.process.poll() is None
            running.process.terminate()
            assert running.process.wait(timeout=10) == 0
