"""fetch: whatever servers and lines do, the file that comes is right, or none comes and what did is kept."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from llmrun.errors import ChecksumError, DiskFullError, GatedError, HubError, NotFoundError
from llmrun.variant import ModelFile, RemoteFile
from tests.fetching import CONTENT, NAME, REPO, SHA256, Bench, repository
from tests.hub_server.fault import Fault
from tests.hub_server.server import HubServer

SIZE = len(CONTENT)


def test_a_file_comes_with_two_requests_and_is_told_of(bench: Bench) -> None:
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire == [("hub", "HEAD", 302, None), ("cdn", "GET", 200, None)]
    assert (bench.heard.started, bench.heard.progress[-1], bench.heard.done) == ([0], SIZE, [path])
    assert bench.heard.progress == sorted(bench.heard.progress)


# what fails once


def resumed(status: int, start: int) -> tuple[str, str, int, str]:
    return ("cdn", "GET", status, f"bytes={start}-")


def test_a_connection_that_is_cut_goes_on_at_the_very_byte(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", cut=1_000_001))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire[2:] == [resumed(206, 1_000_001)]
    assert (bench.heard.waits, bench.heard.reasons) == ([1], [f"{bench.cdn_host} broke off the connection"])


def test_a_connection_that_is_reset_goes_on_from_what_came(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", cut=1_000_001, reset=True))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire[2][:3] == ("cdn", "GET", 206)
    assert bench.heard.reasons == [f"{bench.cdn_host} broke off the connection"]


def test_cut_again_and_again_it_still_comes_as_long_as_something_does(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", cut=250_000, times=11))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.heard.waits == [1] * 11


def test_a_server_that_passes_over_the_range_is_read_from_where_we_are(bench: Bench) -> None:
    bench.leave(CONTENT[:2_000_000])
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", no_range=True))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire[1:] == [resumed(200, 2_000_000)]
    assert (bench.heard.started, bench.heard.progress[0] > 2_000_000) == ([2_000_000], True)


def test_a_server_that_is_busy_is_left_alone_as_long_as_it_asks(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", status=503, headers={"Retry-After": "7"}))
    bench.server.faults.append(Fault(on="hub", method="HEAD", path="resolve", status=429, headers={"Retry-After": "3"}))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.heard.waits == [3, 7]
    assert bench.heard.reasons == [f"{bench.hub_host} answered 429", f"{bench.cdn_host} answered 503"]


def test_a_signature_that_is_used_up_is_had_anew_at_once(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", cut=1_000_001))
    bench.meanwhile = bench.server.expire_signatures
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire == [
        ("hub", "HEAD", 302, None),
        ("cdn", "GET", 200, None),
        ("cdn", "GET", 403, "bytes=1000001-"),
        ("hub", "HEAD", 302, None),
        ("cdn", "GET", 206, "bytes=1000001-"),
    ]
    assert bench.heard.waits == [1, 0]
    assert bench.heard.reasons[1] == f"{bench.cdn_host} refused the bytes from 1,000,001 on (403)"


def test_a_server_that_hangs_up_without_a_word_is_asked_again(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="hub", method="HEAD", path="resolve", drop=True))
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", drop=True))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.heard.reasons == [
        f"{bench.hub_host} broke off the connection",
        f"{bench.cdn_host} broke off the connection",
    ]


def test_a_server_that_has_nothing_from_there_on_is_asked_for_all(bench: Bench) -> None:
    bench.leave(CONTENT[:2_000_000])
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", refuse_range=True))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire[-1] == ("cdn", "GET", 200, None)
    assert bench.heard.restarts == []


def test_a_web_page_in_place_of_the_file_is_not_written(bench: Bench) -> None:
    bench.leave(CONTENT[:2_000_000])
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", page=True))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.heard.reasons == [f"{bench.cdn_host} sent a web page in place of the file: a login page, or a proxy's"]
    assert bench.heard.restarts == []


def test_a_short_answer_that_says_so_is_told_before_it_is_written(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", short=1000))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.heard.reasons == [f"{bench.cdn_host} offers 1,000 bytes, and the file has {SIZE:,}"]


def test_wrong_bytes_are_found_out_and_all_is_fetched_anew(bench: Bench) -> None:
    bench.leave(CONTENT[:1_000_000] + b"?" + CONTENT[1_000_001:2_000_000])
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.heard.restarts == ["the bytes that came are not those of the file"]
    assert [asked[2:] for asked in bench.wire if asked[0] == "cdn"] == [(206, "bytes=2000000-"), (200, None)]


def test_bytes_flipped_on_the_way_are_found_out(bench: Bench) -> None:
    bench.leave(CONTENT[:1000])
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", corrupt=True))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    bench.check_nothing_is_wrong()


def test_a_server_that_hangs_is_left_after_a_while(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", hang=True))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.heard.reasons == [f"{bench.cdn_host} sent nothing for 1 s"]


def test_a_line_that_falls_silent_is_left_after_a_while_and_gone_on_with(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", cut=1_000_001, stall=True))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire[2:] == [resumed(206, 1_000_001)]
    assert bench.heard.reasons == [f"{bench.cdn_host} sent nothing for 1 s"]


# what is left over


def test_what_is_there_is_checked_and_not_fetched_again(bench: Bench) -> None:
    bench.leave(CONTENT)
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire == []
    assert bench.heard.checked[-1] == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("left", "restarts"),
    [
        (CONTENT + b"and more", []),
        (b"GGUF" + bytes(SIZE), ["the bytes that came are not those of the file"]),
        (b"<html>" + bytes(SIZE), ["what is here is no GGUF file"]),
        (b"<html>", ["what is here is no GGUF file"]),
    ],
    ids=["the file and more", "longer and wrong", "longer and no model", "no model"],
)
def test_a_part_that_cannot_be_gone_on_with_is_the_file_or_is_fetched_anew(
    bench: Bench, left: bytes, restarts: list[str]
) -> None:
    bench.leave(left)
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.heard.restarts == restarts
    assert len(bench.wire) == (2 if restarts else 0)


# what fails for good


def test_a_line_that_gives_nothing_any_more_keeps_what_came(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", cut=1_500_002))
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", cut=0, times=5))
    error = bench.failure()
    assert (type(error), error.message, error.hint) == (
        HubError,
        f"{NAME} was not fetched: {bench.cdn_host} broke off the connection, 6 times in a row",
        "type the same again later: the 1.4 MiB that came (50 %) are kept",
    )
    assert bench.part.read_bytes() == CONTENT[:1_500_002]
    assert bench.heard.waits == [1, 2, 4, 8, 8]


def test_a_server_that_wants_too_long_a_pause_is_told_of(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", status=429, headers={"Retry-After": "3600"}))
    error = bench.failure()
    assert (error.message, error.hint, bench.heard.waits) == (
        f"{NAME} was not fetched: {bench.cdn_host} answered 429, and asks to wait 1 h 0 min",
        "try again later",
        [],
    )


def test_wrong_bytes_twice_are_an_error_and_are_not_kept(bench: Bench) -> None:
    other = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with HubServer() as wrong:  # says what the listing says, and has other bytes
        wrong.add(repository({NAME: other}))
        bench.server.faults.append(Fault(on="cdn", method="GET", path=".", status=302, headers=_way_to(wrong), times=2))
        error = bench.failure()
    assert (type(error), error.message, error.hint) == (
        ChecksumError,
        f"{NAME} came with wrong bytes, twice: they do not add up to the checksum the Hub gives",
        "try another network; where HF_ENDPOINT names a mirror, unset it",
    )
    assert bench.part.stat().st_size == 0
    assert bench.heard.restarts == ["the bytes that came are not those of the file"]


def _way_to(server: HubServer) -> dict[str, str]:
    with closing(Bench(server, Path())) as bench:
        return {"Location": bench.url_of(NAME)}


@pytest.mark.parametrize(
    ("token", "message", "hint"),
    [
        (
            None,
            f"{REPO} is gated: its owner gives it to those who ask, and no token says who asks",
            "ask for it at {hub}/acme/tiny-GGUF, then set HF_TOKEN or run `hf auth login`",
        ),
        (
            "hf_other",
            f"{REPO} is gated: its owner has not given it to the owner of this token",
            "ask for it at {hub}/acme/tiny-GGUF",
        ),
    ],
)
def test_a_gated_model_is_said_to_be(tmp_path: Path, token: str | None, message: str, hint: str) -> None:
    with HubServer() as server:
        server.add(repository({NAME: CONTENT}, gated="auto"))
        with closing(Bench(server, tmp_path, token)) as bench:
            error = bench.failure()
        assert (type(error), error.message, error.hint) == (GatedError, message, hint.format(hub=server.url))
        with closing(Bench(server, tmp_path, "hf_good")) as bench:
            assert bench.fetch()[0].read_bytes() == CONTENT


def test_a_token_nobody_knows_is_said_to_be_at_fault(bench: Bench) -> None:
    bench.token = "hf_no_such_token"
    error = bench.failure()
    assert (type(error), error.message, error.hint) == (
        HubError,
        f"{bench.hub_host} does not know the token that was sent along",
        "set HF_TOKEN to a valid one or run `hf auth login`; public models need none: unset HF_TOKEN",
    )


def test_what_does_not_exist_is_said_not_to(bench: Bench) -> None:
    commit = bench.commit
    missing = {
        "file": RemoteFile(REPO, commit, "no.gguf"),
        "revision": RemoteFile(REPO, "0" * 40, NAME),
        "repository": RemoteFile("acme/none", commit, NAME),
    }
    errors = [bench.failure(ModelFile(origin.path, SIZE, origin, SHA256)) for origin in missing.values()]
    assert [(type(error), error.message) for error in errors] == [
        (NotFoundError, f"{REPO} has no file no.gguf"),
        (NotFoundError, f"{REPO} has no such revision"),
        (NotFoundError, "acme/none does not exist on the Hub, or is private"),
    ]


def test_a_hub_that_contradicts_its_own_list_is_not_believed(bench: Bench) -> None:
    file = bench.file()
    other = ModelFile(file.name, file.size, file.origin, "ab" * 32)
    longer = ModelFile(file.name, file.size + 1, file.origin, file.sha256)
    of = f"the Hub contradicts itself about {NAME} of {REPO}"
    errors = [bench.failure(other), bench.failure(longer)]
    assert [(type(error), error.message) for error in errors] == [
        (ChecksumError, f"{of}: sha256 abababababab… in its list, sha256 {SHA256[:12]}… when asked for it"),
        (ChecksumError, f"{of}: {SIZE + 1:,} bytes in its list, {SIZE:,} bytes when asked for it"),
    ]
    assert [asked[:2] for asked in bench.wire] == [("hub", "HEAD")]


def test_a_login_page_in_place_of_the_hub_is_said_to_be_one(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="hub", method="HEAD", path="resolve", page=True))
    error = bench.failure()
    assert (type(error), error.message, error.hint) == (
        HubError,
        f"{bench.hub_host} sent a web page when asked for {NAME} of {REPO}: a login page, or a proxy's",
        "log in with a browser if the network asks for it; HF_ENDPOINT names another server",
    )


def test_files_without_room_are_not_begun_with(bench: Bench) -> None:
    origin = bench.file().origin
    error = bench.failure(bench.file(), ModelFile("big.gguf", 1 << 60, origin, "ab" * 32))
    assert isinstance(error, DiskFullError)
    assert error.message.startswith("1.0 EiB are to be fetched, and ")
    assert error.message.endswith(f" are free on the disk of {bench.cache.parent}")
    assert bench.wire == []
