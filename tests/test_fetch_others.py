"""fetch: beside other processes, and who is asked, by which way, with which token."""

from __future__ import annotations

import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import filelock
import pytest

from llmrun.errors import UnreachableError
from llmrun.hub.client import Hub, new_session
from tests.fetching import CONTENT, NAME, REPO, SHA256, Bench, nobody, repository
from tests.hub_server.fault import Fault
from tests.hub_server.server import HubServer

SIZE = len(CONTENT)


@contextmanager
def deaf() -> Iterator[str]:
    """An address that drops what comes, as a firewall does: whoever would take connections has its hands full."""
    with socket.socket() as server, socket.socket() as one, socket.socket() as other:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (one, other):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """An address that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


# other processes


def lines_until(process: subprocess.Popen[str], word: str) -> list[str]:
    """What a process says, up to a line that begins with a word."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith(word):
            return lines
    raise AssertionError(f"it ended with {process.wait()} after {lines}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_download_that_is_killed_goes_on_at_the_very_byte(bench: Bench, tmp_path: Path, number: int) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", slow=0.2))
    with bench.start(tmp_path) as process:
        told = int(lines_until(process, "progress")[-1].removeprefix("progress "))
        process.send_signal(number)
        assert process.wait(20) == -number
    came = bench.part.stat().st_size
    assert 0 < told <= came < SIZE
    assert bench.part.read_bytes() == CONTENT[:came]
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire[1:] == [("cdn", "GET", 206, f"bytes={came}-")]
    assert bench.heard.started == [came]


def test_a_download_that_is_interrupted_while_it_waits_for_a_server_ends_at_once(bench: Bench, tmp_path: Path) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", hang=True))
    with bench.start(tmp_path) as process:
        lines_until(process, "slow")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT


def test_two_processes_at_once_fetch_a_file_once(bench: Bench, tmp_path: Path) -> None:
    with bench.start(tmp_path) as one, bench.start(tmp_path) as other:
        told = [lines_until(process, "done")[-1] for process in (one, other)]
    assert told[0] == told[1]
    assert Path(told[0].removeprefix("done ")).read_bytes() == CONTENT
    assert [asked[:3] for asked in bench.wire].count(("cdn", "GET", 200)) == 1


def test_who_waits_for_another_process_says_so_and_can_be_interrupted(bench: Bench, tmp_path: Path) -> None:
    bench.leave(CONTENT[:1000])
    lock = bench.cache / ".locks" / bench.blobs.parent.name / f"{SHA256}.lock"
    lock.parent.mkdir(parents=True)
    with filelock.FileLock(lock), bench.start(tmp_path) as process:
        assert lines_until(process, "waiting") == ["waiting 1000"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT


def test_what_another_process_brought_meanwhile_is_used(bench: Bench, tmp_path: Path) -> None:
    (path,) = bench.fetch()
    path.unlink()
    blob = bench.blobs / SHA256
    blob.rename(bench.part)
    lock = bench.cache / ".locks" / bench.blobs.parent.name / f"{SHA256}.lock"
    with bench.start(tmp_path) as process:
        with filelock.FileLock(lock):
            lines_until(process, "waiting")
            bench.part.rename(blob)
        assert lines_until(process, "done")[-1] == f"done {path}"
    assert path.read_bytes() == CONTENT
    assert [asked for asked in bench.wire if asked[0] == "cdn"] == []


# who is asked


def test_a_token_goes_to_the_hub_and_to_nobody_else(bench: Bench) -> None:
    bench.token = "hf_good"
    with HubServer() as other:
        other.add(repository())
        with closing(Bench(other, bench.cache)) as there:
            way = {"Location": there.url_of(NAME)}
        bench.server.faults.append(Fault(on="cdn", method="GET", path=".", status=302, headers=way))
        bench.fetch()
        seen = [(asked.origin, asked.authorization) for asked in bench.server.requests()]
        assert seen == [("hub", "Bearer hf_good"), ("cdn", None)]
        assert {asked.authorization for asked in other.requests()} == {None}
        assert ("cdn", "GET", 200) in [(asked.origin, asked.method, asked.status) for asked in other.requests()]


def test_a_repository_that_was_renamed_is_followed_with_the_token(bench: Bench) -> None:
    bench.token = "hf_good"
    file = bench.file()
    bench.server.rename(REPO, "acme/small-GGUF")
    (path,) = bench.fetch(file)
    assert path.read_bytes() == CONTENT
    seen = [(asked.origin, asked.status, asked.authorization) for asked in bench.server.requests()]
    assert seen == [("hub", 307, "Bearer hf_good"), ("hub", 302, "Bearer hf_good"), ("cdn", 200, None)]


def test_the_hub_is_the_one_the_environment_names(bench: Bench, tmp_path: Path) -> None:
    code = "from llmrun.hub.client import this_hub; h = this_hub(); print(h.endpoint, h.token, h.answer_seconds)"
    variables = {"HF_TOKEN": "hf_good", "HF_HUB_DOWNLOAD_TIMEOUT": "3"}
    environment = bench.server.environment(tmp_path) | variables
    told = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    assert told.stdout == f"{bench.server.url} hf_good 3.0\n"
    environment["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    told = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    assert told.stdout == f"{bench.server.url} None 3.0\n"


def test_a_hub_whose_host_takes_no_connection_is_said_to_be_down_within_two_seconds(bench: Bench) -> None:
    file = bench.file()
    with deaf() as endpoint:
        begun = time.monotonic()
        error = bench.failure(file, hub=bench.hub(endpoint))
        took = time.monotonic() - begun
    host = endpoint.removeprefix("http://")
    assert (type(error), error.message) == (UnreachableError, f"{host} cannot be reached within 2 s")
    assert 1.9 < took < 4


def test_a_hub_that_is_down_is_said_to_be_at_once(bench: Bench) -> None:
    file = bench.file()
    with nobody() as endpoint:
        begun = time.monotonic()
        error = bench.failure(file, hub=bench.hub(endpoint))
    assert time.monotonic() - begun < 2
    assert (type(error), error.message, error.hint) == (
        UnreachableError,
        f"{endpoint.removeprefix('http://')} cannot be reached: connection refused",
        "`llmrun list` shows what needs no network; HTTPS_PROXY names a proxy, HF_ENDPOINT a mirror",
    )
    assert bench.heard.waits == []


def test_a_hub_that_says_nothing_is_told_of_and_then_given_up(bench: Bench) -> None:
    file = bench.file()
    with silent() as endpoint:
        begun = time.monotonic()
        error = bench.failure(file, hub=bench.hub(endpoint, answer_seconds=3))
        took = time.monotonic() - begun
    host = endpoint.removeprefix("http://")
    assert bench.heard.slow == [host]
    assert (type(error), error.message) == (UnreachableError, f"{host} sent nothing for 3 s")
    assert 2.9 < took < 6


def test_a_proxy_is_used_where_the_environment_names_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            wanted = urllib.request.Request(self.path, method=self.command)
            with urllib.request.build_opener(_Stay(), urllib.request.ProxyHandler({})).open(wanted) as answer:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.read())

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    file = bench.file()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        with closing(new_session()) as session:
            (path,) = bench.fetch(file, hub=Hub(bench.server.url, session))
        proxy.shutdown()
    assert path.read_bytes() == CONTENT
    assert [address.split("/")[2] for address in asked] == [bench.hub_host, bench.cdn_host]


class _Stay(urllib.request.HTTPRedirectHandler):
    """Gives a redirection on as it is."""

    def http_error_302(self, *asked: object) -> object:
        return asked[1]


@pytest.mark.parametrize("location", ["http://hub:99999/x?Signature=secret", "http://[::1/x", f"http://{'a' * 64}/x"])
def test_a_hub_that_sends_to_no_address_is_given_up_with_the_reason(bench: Bench, location: str) -> None:
    bench.server.faults.append(Fault("hub", "HEAD", status=302, headers={"Location": location}, times=9))
    error = bench.failure()
    assert f"{bench.hub_host} sends on to what is no address" in error.message
    assert "secret" not in f"{error.message} {error.hint}"


def test_a_server_of_bytes_that_sends_to_no_address_is_given_up_with_the_reason(bench: Bench) -> None:
    bench.server.faults.append(Fault("cdn", status=302, headers={"Location": f"http://{'a' * 64}/x"}, times=9))
    assert f"{bench.cdn_host} sends on to what is no address" in bench.failure().message
