"""Headers over HTTP: as few requests and bytes as can be, right whatever the line does, never asked for twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llmrun.embedded import embedded_file
from llmrun.errors import GatedError, GGUFError, HubError, UnreachableError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.source import read_header
from llmrun.hub.client import Hub, new_session
from llmrun.hub.headers import HeaderReader
from llmrun.hub.retries import Retries
from llmrun.variant import ModelFile, RemoteFile
from scripts.architectures.quants import quantized
from scripts.architectures.shapes import MODELS
from tests.hub_server.content import of_bytes
from tests.hub_server.fault import Fault
from tests.hub_server.repo import Repo
from tests.hub_server.repos import gated_repo, guide_repo, large_repo, split_repo
from tests.hub_server.request import Origin
from tests.hub_server.server import HubServer

MIB = 1 << 20
QUANTS = ("Q8_0", "Q4_K_M", "IQ1_M")


@pytest.fixture(scope="module")
def large() -> Repo:
    """A model of 8 billion weights with a header of 5 MiB in each file."""
    return large_repo("acme/Large-GGUF", "Large", "qwen3-8b", QUANTS)


@pytest.fixture
def server(large: Repo) -> Iterator[HubServer]:
    with HubServer() as started:
        for repo in (large, guide_repo(), split_repo(), gated_repo()):
            started.add(repo)
        yield started


def reader(server: HubServer, folder: Path | None = None) -> HeaderReader:
    """Who reads, without waiting where the program would."""
    return HeaderReader(folder, Hub(server.url, new_session(), answer_seconds=1), retries=lambda: Retries(_no_pause))


def _no_pause(_: float) -> None: ...


def files_of(repo: Repo, *names: str) -> tuple[ModelFile, ...]:
    """Files as a listing has them."""
    return tuple(
        ModelFile(name, repo.contents[name].size, RemoteFile(repo.id, repo.commit, name), repo.contents[name].sha256)
        for name in names
    )


def real_header(repo: Repo, name: str) -> GGUFHeader:
    found = parse_header(b"".join(repo.contents[name].pieces(0, 16 * MIB)))
    assert isinstance(found, GGUFHeader)
    return found


def test_a_header_costs_two_requests_and_little_more_than_its_bytes(server: HubServer, large: Repo) -> None:
    header = reader(server).read(files_of(large, "Large-Q8_0.gguf"))
    assert header == real_header(large, "Large-Q8_0.gguf")
    assert [(asked.origin, asked.method) for asked in server.log] == [("hub", "HEAD"), ("cdn", "GET")]
    assert server.log[1].range == f"bytes=0-{16 * MIB - 1}"


def test_of_a_second_file_only_the_list_of_tensors_is_read(server: HubServer, large: Repo) -> None:
    one = reader(server)
    one.read(files_of(large, "Large-Q8_0.gguf"))
    server.clear_log()
    header = one.read(files_of(large, "Large-IQ1_M.gguf"))
    assert header.tensors == real_header(large, "Large-IQ1_M.gguf").tensors
    assert len(server.log) == 2
    assert server.bytes_sent < MIB // 20


def test_a_second_file_with_longer_metadata_is_read_whole(server: HubServer, large: Repo) -> None:
    """Its tensors are not where the first file has them: nothing is taken that does not add up."""
    other = Repo("acme/Other-GGUF", {"other-Q4_K_M.gguf": of_bytes(embedded_file("Q4_K_M").read_bytes())})
    server.add(other)
    one = reader(server)
    one.read(files_of(large, "Large-Q4_K_M.gguf"))
    assert one.read(files_of(other, "other-Q4_K_M.gguf")) == read_header(embedded_file("Q4_K_M"))


def test_what_was_read_is_never_asked_for_again(server: HubServer, large: Repo, tmp_path: Path) -> None:
    files = files_of(large, "Large-Q4_K_M.gguf")
    assert reader(server, tmp_path).kept(files) is None
    first = reader(server, tmp_path).read(files)
    server.clear_log()
    assert reader(server, tmp_path).kept(files) == first
    assert reader(server, tmp_path).read(files) == first
    assert server.log == []


def test_a_damaged_memory_costs_requests_and_nothing_else(server: HubServer, large: Repo, tmp_path: Path) -> None:
    files = files_of(large, "Large-Q4_K_M.gguf")
    first = reader(server, tmp_path).read(files)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    assert reader(server, tmp_path).read(files) == first


def test_the_parts_of_a_split_model_are_read_as_one(server: HubServer) -> None:
    repo = split_repo()
    names = sorted(name for name in repo.files if name.endswith(".gguf"))
    header = reader(server).read(files_of(repo, *names))
    whole = read_header(embedded_file("F16"))
    assert [(one.name, one.shape, one.type) for one in header.tensors] == [
        (one.name, one.shape, one.type) for one in whole.tensors
    ]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("cdn", cut=700_000),
        Fault("cdn", cut=700_000, reset=True),
        Fault("cdn", drop=True),
        Fault("cdn", status=503),
        Fault("cdn", status=429, headers={"Retry-After": "1"}),
        Fault("cdn", page=True),
        Fault("cdn", no_range=True),
        Fault("cdn", short=600_000),
        Fault("hub", "HEAD", status=503),
        Fault("hub", "HEAD", drop=True),
    ],
    ids=str,
)
def test_what_fails_once_is_asked_for_again(server: HubServer, large: Repo, fault: Fault) -> None:
    server.faults.append(fault)
    assert reader(server).read(files_of(large, "Large-Q8_0.gguf")) == real_header(large, "Large-Q8_0.gguf")
    assert [left.times for left in server.faults] == [0]


@pytest.mark.parametrize(("origin", "method"), [("hub", "HEAD"), ("cdn", "GET")])
def test_who_is_waited_for_is_told_before(server: HubServer, large: Repo, origin: Origin, method: str) -> None:
    told: list[str] = []
    said_before: list[list[str]] = []
    server.faults.append(Fault(origin, method, status=429, headers={"Retry-After": "100"}))
    hub = Hub(server.url, new_session(), answer_seconds=1)
    retries = Retries(lambda _: said_before.append(list(told)))
    HeaderReader(None, hub, told.append, lambda: retries).read(files_of(large, "Large-Q8_0.gguf"))
    assert said_before == [[urlsplit(server.url if origin == "hub" else server.cdn_url).netloc]]


def test_a_signature_that_expired_is_asked_for_anew(server: HubServer, large: Repo) -> None:
    server.faults.append(Fault("cdn", status=403))
    assert reader(server).read(files_of(large, "Large-Q8_0.gguf")) == real_header(large, "Large-Q8_0.gguf")
    assert [asked.method for asked in server.log] == ["HEAD", "GET", "HEAD", "GET"]


def test_what_always_fails_is_given_up_with_the_reason(server: HubServer, large: Repo) -> None:
    server.faults.append(Fault("cdn", page=True, times=100))
    with pytest.raises(HubError, match="web page"):
        reader(server).read(files_of(large, "Large-Q8_0.gguf"))


def test_a_server_that_hangs_has_a_deadline(server: HubServer, large: Repo) -> None:
    server.faults.append(Fault("cdn", hang=True, times=100))
    with pytest.raises(UnreachableError, match="for 1 s"):
        reader(server).read(files_of(large, "Large-Q8_0.gguf"))


def test_a_gated_file_says_whom_to_ask(server: HubServer) -> None:
    with pytest.raises(GatedError) as caught:
        reader(server).read(files_of(gated_repo(), "gated-Q8_0.gguf"))
    assert "acme/gated-GGUF is gated" in caught.value.message
    assert f"{server.url}/acme/gated-GGUF" in str(caught.value.hint)


def test_a_file_that_is_no_model_is_said_to_be_none(server: HubServer) -> None:
    repo = server.add(Repo("acme/bad-GGUF", {"bad-Q4_0.gguf": of_bytes(b"PK\x03\x04" + bytes(1000))}))
    with pytest.raises(GGUFError, match=r"bad-Q4_0\.gguf: not a GGUF file"):
        reader(server).read(files_of(repo, "bad-Q4_0.gguf"))


def test_a_file_shorter_than_its_tensors_is_said_to_be_incomplete(server: HubServer) -> None:
    data = embedded_file("Q8_0").read_bytes()[:-1000]
    repo = server.add(Repo("acme/cut-GGUF", {"cut-Q8_0.gguf": of_bytes(data)}))
    with pytest.raises(GGUFError, match="incomplete on the Hub: it needs 7,192,160 bytes and has 7,191,160"):
        reader(server).read(files_of(repo, "cut-Q8_0.gguf"))


def test_no_token_reaches_the_server_of_the_bytes(server: HubServer) -> None:
    hub = Hub(server.url, new_session(), token="hf_good", answer_seconds=1)
    HeaderReader(None, hub).read(files_of(gated_repo(), "gated-Q8_0.gguf"))
    assert [asked.authorization for asked in server.log] == ["Bearer hf_good", None]


def test_the_shapes_stand_for_what_is_on_the_hub() -> None:
    """The header of the repository is a real one's: as long, and of a model the planner knows."""
    repo = large_repo("acme/Large-GGUF", "Large", "qwen3-8b", ("Q8_0",))
    header = real_header(repo, "Large-Q8_0.gguf")
    assert header.tensors == quantized(MODELS["qwen3-8b"], "Q8_0").tensors
    assert header.data_offset > 4 * MIB
