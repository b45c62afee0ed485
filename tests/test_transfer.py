"""transfer: what a server says is understood before a byte is written, and what came stays; without a network."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import GatedError, HubError, LLMRunError, NotFoundError
from llmrun.hub.address import file_url, host_of, is_address, is_same_origin
from llmrun.hub.answer import asked_wait, bytes_to_skip
from llmrun.hub.failure import Asked, given_up, refused
from llmrun.hub.retries import MAX_IN_A_ROW, Retries
from llmrun.hub.setback import SetbackError, setback_of
from llmrun.hub.waiting import answered
from llmrun.variant import RemoteFile

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


# what a server says


@pytest.mark.parametrize(
    ("status", "headers", "skipped"),
    [
        (206, {"content-range": "bytes 100-999/1000"}, 0),
        (206, {"content-range": "bytes 100-499/1000"}, 0),  # a server may give less than was asked for
        (206, {"content-range": "bytes 100-999/*"}, 0),
        (206, {"content-range": "bytes 60-999/1000"}, 40),
        (200, {"content-length": "1000"}, 100),  # the range was passed over: so are the bytes that are here
        (200, {}, 100),
        (200, {"content-length": "1000", "content-encoding": "identity"}, 100),
    ],
)
def test_an_answer_with_the_files_bytes_begins_where_it_says(
    status: int, headers: dict[str, str], skipped: int
) -> None:
    assert bytes_to_skip(status, headers, 100, 1000, "cdn") == skipped


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (206, {"content-range": "bytes 100-998/999"}, "cdn offers 999 bytes, and the file has 1,000"),
        (
            206,
            {"content-range": "bytes 101-999/1000"},
            "cdn sent 'bytes 101-999/1000' when asked for the bytes from",
        ),
        (206, {"content-range": "rubbish"}, "cdn sent 'rubbish' when asked for the bytes from 100 on"),
        (206, {}, "cdn sent '' when asked for the bytes from 100 on"),
        (200, {"content-length": "900"}, "cdn offers 900 bytes, and the file has 1,000"),
        (200, {"content-length": "x" * 99}, f"cdn offers {'x' * 20!r} bytes, and the file has 1,000"),
        (200, {"content-length": "1000", "content-encoding": "gzip"}, "cdn sent the file packed as 'gzip'"),
        (200, {"content-type": "Text/HTML; charset=utf-8"}, "cdn sent a web page in place of the file: a login page"),
        (206, {"content-type": "text/html", "content-range": "bytes 100-999/1000"}, "cdn sent a web page in place of"),
    ],
)
def test_an_answer_with_other_bytes_is_told_before_one_is_written(
    status: int, headers: dict[str, str], reason: str
) -> None:
    with pytest.raises(SetbackError) as caught:
        bytes_to_skip(status, headers, 100, 1000, "cdn")
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "Tue, 24 Nov 2026 12:01:30 GMT"}, 90.0),
        ({"retry-after": "Tue, 24 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:05 -0000"}, 5.0),
        ({"ratelimit": '"resolvers";r=0;t=55'}, 55.0),
        ({"ratelimit": '"resolvers";r=2998;t=172'}, None),  # said with every answer: there is no need to wait
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 5000}, None),
        ({"retry-after": "٣"}, None),
        ({}, None),
    ],
)
def test_a_server_may_ask_to_be_left_alone(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers, NOW) == seconds


HEADER = st.one_of(
    st.text(max_size=60),
    st.from_regex(r"bytes [0-9]{1,4}-[0-9]{1,4}/([0-9]{1,4}|\*)", fullmatch=True),
    st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,9} [0-9:]{1,9} [-+A-Z0-9]{1,7}", fullmatch=True),
    st.from_regex(r'"[a-z]+";r=0;t=[0-9]{1,12}', fullmatch=True),
)
NAMES = st.sampled_from(
    ["content-type", "content-range", "content-length", "content-encoding", "retry-after", "ratelimit"]
)


@given(st.sampled_from([200, 206]), st.dictionaries(NAMES, HEADER), st.integers(0, 999))
def test_whatever_a_server_says_is_a_position_or_a_setback(status: int, headers: dict[str, str], start: int) -> None:
    try:
        skipped = bytes_to_skip(status, headers, start, 1000, "cdn")
    except SetbackError:
        return
    assert 0 <= skipped <= start


@given(st.dictionaries(NAMES, HEADER))
def test_whatever_a_server_says_of_time_is_some_or_none(headers: dict[str, str]) -> None:
    wait = asked_wait(headers, NOW)
    assert wait is None or wait >= 0


def test_a_host_is_told_without_what_is_in_its_address() -> None:
    assert host_of("https://user:secret@cdn.hf.co:443/x?Signature=secret") == "cdn.hf.co"
    assert host_of("http://127.0.0.1:8000/x?Signature=secret") == "127.0.0.1:8000"


def test_a_page_is_told_without_the_password_of_its_server() -> None:
    asked = Asked("https://user:sec@ret@mirror.example:8443/hub", "acme/tiny")
    assert asked.page == "https://mirror.example:8443/hub/acme/tiny"
    assert "secret" not in str(refused(403, {}, asked).hint)


NO_ADDRESSES = (
    *("", "huggingface.co", "ftp://hub/a", "https://", "https:///a", "http://hub:99999/", "http://hub:abc/"),
    *("http://[::1/", f"http://{'a' * 64}.example/", f"http://{'a.' * 127}/", "http://h b/", "http://h\x00/"),
)


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_what_is_no_address_is_said_to_be_none_and_is_nobodys(url: str) -> None:
    assert not is_address(url)
    assert isinstance(host_of(url), str)
    assert not is_same_origin("http://[::1/", url)


@given(st.text())
def test_whatever_stands_where_an_address_should_has_a_host_to_tell(url: str) -> None:
    assert isinstance(host_of(url), str)
    assert is_address(url) in (True, False)


@pytest.mark.parametrize(
    "url", ["https://huggingface.co", "http://127.0.0.1:8000/a?b", "http://[::1]:80", "HTTP://Hub"]
)
def test_an_address_is_one(url: str) -> None:
    assert is_address(url)


@pytest.mark.parametrize(
    ("url", "is_same"),
    [
        ("https://huggingface.co/a?b", True),
        ("https://huggingface.co:443/a", True),
        ("http://huggingface.co/a", False),
        ("https://huggingface.co:444/a", False),
        ("https://huggingface.co.evil.example/a", False),
        ("https://huggingface.co@evil.example/a", False),
        ("https://cdn.huggingface.co/a", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, is_same: bool) -> None:
    assert is_same_origin(url, "https://huggingface.co") == is_same


def test_a_path_is_written_into_an_address_so_that_it_stays_a_path() -> None:
    file = RemoteFile("acme/tiny", "1f" * 20, "Q4/a b?#%.gguf")
    assert file_url("https://hub", file) == f"https://hub/acme/tiny/resolve/{'1f' * 20}/Q4/a%20b%3F%23%25.gguf"


# what it means


NO_FILE = {"x-error-code": "EntryNotFound"}
NO_REVISION = {"x-error-code": "RevisionNotFound"}
NO_REPOSITORY = {"x-error-code": "RepoNotFound"}
GATED = {"x-error-code": "GatedRepo"}
BAD_TOKEN = {"x-error-message": "Invalid credentials in Authorization header"}


@pytest.mark.parametrize(
    ("status", "headers", "has_token", "kind", "message", "hint"),
    [
        (
            *(401, GATED, False, GatedError),
            "acme/tiny is gated: its owner gives it to those who ask, and no token says who asks",
            "ask for it at https://hub/acme/tiny, then set HF_TOKEN or run `hf auth login`",
        ),
        (
            *(403, GATED, True, GatedError),
            "acme/tiny is gated: its owner has not given it to the owner of this token",
            "ask for it at https://hub/acme/tiny",
        ),
        (
            *(401, BAD_TOKEN, True, HubError),
            "hub does not know the token that was sent along",
            "set HF_TOKEN to a valid one or run `hf auth login`; public models need none: unset HF_TOKEN",
        ),
        (
            *(401, NO_REPOSITORY, False, NotFoundError),
            "acme/tiny does not exist on the Hub, or is private",
            "`llmrun search WORDS` finds models; a private one needs HF_TOKEN or `hf auth login`",
        ),
        (
            *(404, NO_REPOSITORY, True, NotFoundError),
            "acme/tiny does not exist on the Hub, or this token may not see it",
            "`llmrun search WORDS` finds models",
        ),
        (
            *(404, NO_REVISION, False, NotFoundError),
            "acme/tiny has no such revision",
            "see https://hub/acme/tiny/commits/main",
        ),
        (404, NO_FILE, False, NotFoundError, "acme/tiny has no file t.gguf", "see https://hub/acme/tiny"),
        (403, {}, False, GatedError, "hub does not give t.gguf of acme/tiny to us (403)", "see https://hub/acme/tiny"),
        (
            *(429, {"retry-after": "55"}, False, HubError),
            "hub was asked too often (429): it asks for a pause of 55 s",
            "wait, or set HF_TOKEN: more is given to those who do",
        ),
        (
            *(429, {}, True, HubError),
            "hub was asked too often (429): it asks for a pause of a while",
            "wait, and type the same again",
        ),
        (500, {}, False, HubError, "hub answered 500 when asked for t.gguf of acme/tiny", "try again later"),
    ],
)
def test_each_refusal_says_what_to_do(
    status: int, headers: dict[str, str], has_token: bool, kind: type[LLMRunError], message: str, hint: str
) -> None:
    error = refused(status, headers, Asked("https://hub", "acme/tiny", "t.gguf", has_token))
    assert (type(error), error.message, error.hint) == (kind, message, hint)


def test_who_gives_up_says_what_is_kept() -> None:
    error = given_up("t.gguf", SetbackError("cdn broke off the connection"), 6, 3 << 30, 5 << 30)
    assert (error.message, error.hint) == (
        "t.gguf was not fetched: cdn broke off the connection, 6 times in a row",
        "type the same again later: the 3.0 GiB that came (60 %) are kept",
    )
    error = given_up("t.gguf", SetbackError("hub answered 429", wait=7200), 1, 0, 5 << 30)
    assert (error.message, error.hint) == (
        "t.gguf was not fetched: hub answered 429, and asks to wait 2 h 0 min",
        "try again later",
    )


def test_a_certificate_nobody_trusts_is_said_to_be_at_fault() -> None:
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_message = "self-signed certificate"
    error = httpx2.ConnectError("failed")
    error.__cause__ = cause
    assert setback_of(error, "hub").reason == (
        "hub cannot be reached: its certificate is not trusted (self-signed certificate); "
        "SSL_CERT_FILE names those that are"
    )


def test_a_name_nobody_knows_is_said_to_be_unknown() -> None:
    error = httpx2.ConnectError("failed")
    error.__cause__ = socket.gaierror(-2, "Name or service not known")
    assert setback_of(error, "hub").reason == "hub cannot be reached: name or service not known"


# how often


def test_waits_grow_and_begin_anew_when_something_came() -> None:
    waits: list[float] = []
    retries = Retries(pause=waits.append)
    setback = SetbackError("cdn broke off the connection")
    for _ in range(3):
        assert retries.wait_after(setback, lambda *_: None)
    retries.progressed()
    while retries.wait_after(setback, lambda *_: None):
        pass
    assert waits == [1, 2, 4, 1, 2, 4, 8, 8]
    assert retries.in_a_row == MAX_IN_A_ROW + 1


def test_a_server_that_asks_for_time_gets_it_within_reason() -> None:
    waits: list[float] = []
    retries = Retries(pause=waits.append)
    assert retries.wait_after(SetbackError("expired", wait=0), lambda *_: None)
    assert retries.wait_after(SetbackError("expired", wait=0), lambda *_: None)
    assert retries.wait_after(SetbackError("busy", wait=120), lambda *_: None)
    assert not retries.wait_after(SetbackError("busy", wait=121), lambda *_: None)
    assert waits == [0, 2, 120]


def test_who_waits_says_why_and_how_long() -> None:
    told: list[tuple[str, float]] = []
    Retries(pause=lambda _: None).wait_after(SetbackError("cdn answered 503", wait=7), lambda *said: told.append(said))
    assert told == [("cdn answered 503", 7)]


def test_what_is_asked_may_fail_as_it_likes() -> None:
    with pytest.raises(ZeroDivisionError):
        answered(lambda: 1 / 0, "hub")


def test_a_name_that_is_looked_up_for_ever_is_given_up_after_two_seconds() -> None:
    for_ever = threading.Event()
    with pytest.raises(SetbackError) as caught:
        answered(for_ever.wait, "hub")
    for_ever.set()
    assert (caught.value.reason, caught.value.unreachable) == ("hub cannot be reached within 2 s", True)
