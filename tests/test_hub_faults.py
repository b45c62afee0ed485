"""hub_server: ranges, and what each fault does on the wire."""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from scripts.hub import parse_fault
from tests.hub_server.content import PIECE
from tests.hub_server.fault import LOGIN_PAGE, Fault
from tests.hub_server.repo import Repo
from tests.hub_server.server import HubServer

ID, NAME = "acme/tiny-GGUF", "tiny.gguf"
MODEL = b"GGUF" + bytes(range(256)) * 3 * (PIECE // 256)
SIZE = len(MODEL)
RESOLVE = f"/{ID}/resolve/main/{NAME}"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(Repo(ID, {NAME: MODEL, "README.md": b"# tiny\n"}))
        yield server


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=10, trust_env=False) as session:
        yield session


def signed(hub: HubServer, client: httpx2.Client) -> str:
    """An address for the model's bytes."""
    return client.head(hub.url + RESOLVE).headers["location"]


@pytest.fixture
def url(hub: HubServer, client: httpx2.Client) -> str:
    """An address for the model's bytes, after which the log is empty."""
    address = signed(hub, client)
    hub.clear_log()
    return address


def came(client: httpx2.Client, url: str, **asked: Any) -> tuple[bytes, Exception | None]:
    """What came of a body, and with what it ended."""
    data = b""
    try:
        with client.stream("GET", url, **asked) as answer:
            for piece in answer.iter_raw():
                data += piece
    except httpx2.HTTPError as error:
        return data, error
    return data, None


# parts of files


@pytest.mark.parametrize(
    ("wanted", "told", "part"),
    [
        ("bytes=0-9", f"bytes 0-9/{SIZE}", MODEL[:10]),
        ("bytes=5-5", f"bytes 5-5/{SIZE}", MODEL[5:6]),
        (f"bytes={SIZE - 3}-", f"bytes {SIZE - 3}-{SIZE - 1}/{SIZE}", MODEL[-3:]),
        (f"bytes={SIZE - 3}-{SIZE * 2}", f"bytes {SIZE - 3}-{SIZE - 1}/{SIZE}", MODEL[-3:]),
        ("bytes=-4", f"bytes {SIZE - 4}-{SIZE - 1}/{SIZE}", MODEL[-4:]),
        (f"bytes={PIECE - 1}-{PIECE}", f"bytes {PIECE - 1}-{PIECE}/{SIZE}", MODEL[PIECE - 1 : PIECE + 1]),
    ],
    ids=["first", "one", "last", "beyond", "suffix", "across pieces"],
)
def test_a_part_is_what_was_asked_for(client: httpx2.Client, url: str, wanted: str, told: str, part: bytes) -> None:
    answer = client.get(url, headers={"Range": wanted})
    assert (answer.status_code, answer.headers["content-range"], answer.content) == (206, told, part)


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}"])
def test_there_is_nothing_behind_the_end(client: httpx2.Client, url: str, wanted: str) -> None:
    answer = client.get(url, headers={"Range": wanted})
    assert (answer.status_code, answer.headers["content-range"], answer.content) == (416, f"bytes */{SIZE}", b"")


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "lines=1-2", "bytes=-"])
def test_what_is_no_part_is_answered_with_all(client: httpx2.Client, url: str, wanted: str) -> None:
    answer = client.get(url, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, MODEL)


def test_the_etag_of_the_other_server_is_no_checksum_of_the_file(hub: HubServer, client: httpx2.Client) -> None:
    told = client.head(hub.url + RESOLVE)
    answer = client.head(told.headers["location"])
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, str(SIZE), b"")
    assert len(answer.headers["etag"]) == len(told.headers["x-linked-etag"]) == 66
    assert answer.headers["etag"] != told.headers["x-linked-etag"]
    assert "x-repo-commit" not in answer.headers


def test_a_connection_is_used_again(hub: HubServer, client: httpx2.Client, url: str) -> None:
    for number in range(3):
        client.get(url, headers={"Range": f"bytes={number}-9"})
    assert [(asked.range, asked.status, asked.sent) for asked in hub.requests("cdn")] == [
        ("bytes=0-9", 206, 10),
        ("bytes=1-9", 206, 9),
        ("bytes=2-9", 206, 8),
    ]


# signatures


def test_signatures_are_good_until_they_expire(hub: HubServer, client: httpx2.Client, url: str) -> None:
    assert client.get(url).status_code == 200
    hub.expire_signatures()
    refused = client.get(url)
    assert (refused.status_code, b"AccessDenied" in refused.content) == (403, True)
    assert client.get(signed(hub, client)).content == MODEL


def test_a_signature_is_for_one_file(client: httpx2.Client, url: str) -> None:
    other = url.replace(urlsplit(url).path, f"/xet-bridge-us/{'0' * 64}")
    assert client.get(other).status_code == 403
    assert client.get(url.partition("?")[0]).status_code == 403


# which requests


def test_a_fault_strikes_as_often_as_it_says_and_then_no_more(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", status=503, headers={"Retry-After": "7"}, times=2))
    answers = [client.get(url) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].headers["retry-after"] == "7"


def test_a_fault_strikes_only_what_it_is_for(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("hub", "GET", path="README", status=500))
    hub.faults.append(Fault("hub", "HEAD", path=r"tiny\.gguf$", status=502))
    assert client.get(url).status_code == 200
    assert client.head(f"{hub.url}/{ID}/resolve/main/README.md").status_code == 307
    assert client.head(hub.url + RESOLVE).status_code == 502
    assert client.get(f"{hub.url}/{ID}/resolve/main/README.md").status_code == 500


def test_faults_strike_one_after_the_other(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults += [Fault("cdn", status=500, body=b"first"), Fault("cdn", status=502, body=b"second")]
    assert [client.get(url).content for _ in range(2)] == [b"first", b"second"]


# what is answered in place of the file


def test_a_login_page_takes_the_place_of_the_answer(hub: HubServer, client: httpx2.Client) -> None:
    hub.faults.append(Fault("hub", "HEAD", page=True))
    hub.faults.append(Fault("hub", "GET", page=True))
    head, body = client.head(hub.url + RESOLVE), client.get(hub.url + RESOLVE)
    assert (head.status_code, body.status_code, body.content) == (200, 200, LOGIN_PAGE)
    assert body.headers["content-type"] == "text/html; charset=utf-8"
    assert "x-repo-commit" not in head.headers


def test_a_signature_can_expire_for_one_request(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", expired=True))
    assert [client.get(url).status_code for _ in range(2)] == [403, 200]


def test_headers_are_put_in_and_taken_away(hub: HubServer, client: httpx2.Client) -> None:
    wrong: dict[str, str | None] = {"X-Linked-Size": "7", "X-Linked-Etag": '"ab"', "X-Repo-Commit": None}
    hub.faults.append(Fault("hub", "HEAD", headers=wrong))
    answer = client.head(hub.url + RESOLVE)
    assert (answer.status_code, answer.headers["x-linked-size"], answer.headers["x-linked-etag"]) == (302, "7", '"ab"')
    assert "x-repo-commit" not in answer.headers


def test_a_connection_is_dropped_without_an_answer(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", drop=True))
    with pytest.raises(httpx2.RemoteProtocolError, match="without sending a response"):
        client.get(url)
    assert [(asked.status, asked.sent) for asked in hub.requests("cdn")] == [(None, 0)]


def test_nothing_is_answered_as_long_as_whoever_asked_waits(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", hang=True))
    with pytest.raises(httpx2.ReadTimeout):
        client.get(url, timeout=0.1)
    assert client.get(url).content == MODEL


def test_a_server_that_ends_ends_what_hangs(hub: HubServer, url: str) -> None:
    hub.faults.append(Fault("cdn", cut=4, stall=True))
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as line:
        line.sendall(f"GET {where.path}?{where.query} HTTP/1.1\r\n\r\n".encode())
        data = b""
        while not data.endswith(b"GGUF"):
            data += line.recv(1000)
        hub.close()
        assert line.recv(1) == b""


# what becomes of the body


def test_a_body_is_cut_at_the_very_byte(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", cut=PIECE + 3))
    data, error = came(client, url)
    assert (data, type(error)) == (MODEL[: PIECE + 3], httpx2.RemoteProtocolError)
    assert hub.bytes_sent == PIECE + 3


def test_a_body_is_cut_before_its_first_byte(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", cut=0))
    data, error = came(client, url)
    assert (data, type(error)) == (b"", httpx2.RemoteProtocolError)


def test_a_part_is_cut_counting_from_where_it_begins(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", cut=5))
    data, _ = came(client, url, headers={"Range": "bytes=100-"})
    assert data == MODEL[100:105]


def test_a_connection_is_reset(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", cut=1000, reset=True))
    data, error = came(client, url)
    assert MODEL[:1000].startswith(data)
    assert type(error) is httpx2.ReadError


def test_a_body_stops_and_the_connection_stays(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", cut=1000, stall=True))
    data, error = came(client, url, timeout=0.2)
    assert (data, type(error)) == (MODEL[:1000], httpx2.ReadTimeout)


def test_a_short_body_is_announced_as_short(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", short=1000))
    answer = client.get(url)
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "1000", MODEL[:1000])


def test_one_byte_is_another(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", corrupt=True))
    data, error = came(client, url)
    wrong = [place for place, (sent, right) in enumerate(zip(data, MODEL, strict=True)) if sent != right]
    assert (len(data), wrong, error) == (SIZE, [PIECE - 1], None)


def test_who_asks_for_a_part_gets_all(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", no_range=True))
    answer = client.get(url, headers={"Range": "bytes=5-9"})
    assert (answer.status_code, answer.content, "content-range" in answer.headers) == (200, MODEL, False)


def test_who_asks_for_a_part_is_refused_and_who_asks_for_all_is_not(
    hub: HubServer, client: httpx2.Client, url: str
) -> None:
    hub.faults.append(Fault("cdn", refuse_range=True, times=2))
    assert client.get(url, headers={"Range": "bytes=5-9"}).status_code == 416
    assert client.get(url).content == MODEL


def test_a_slow_line_pauses_before_each_piece(hub: HubServer, client: httpx2.Client, url: str) -> None:
    hub.faults.append(Fault("cdn", slow=0.02))
    started = time.monotonic()
    data, error = came(client, url)
    assert (data, error) == (MODEL, None)
    assert time.monotonic() - started >= 4 * 0.02  # three pieces, and four bytes


def test_small_files_have_faults_too(hub: HubServer, client: httpx2.Client) -> None:
    hub.faults.append(Fault("hub", path="resolve-cache", cut=2))
    data, error = came(client, f"{hub.url}/{ID}/resolve/main/README.md", follow_redirects=True)
    assert (data, type(error)) == (b"# ", httpx2.RemoteProtocolError)


# from the command line


def test_a_fault_is_written_in_one_word() -> None:
    assert parse_fault("cut=1000000") == Fault("cdn", cut=1_000_000)
    assert parse_fault("on=hub,method=HEAD,path=Q4,status=503,times=3") == Fault("hub", "HEAD", "Q4", 3, status=503)
    assert parse_fault("slow=0.5") == Fault("cdn", slow=0.5)


@pytest.mark.parametrize(("text", "message"), [("cat=1", "'cat' is no fault; there are"), ("cut=x", "takes a number")])
def test_what_is_no_fault_is_said_to_be_none(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        parse_fault(text)
