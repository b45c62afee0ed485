"""What the Hub says of repositories: whatever it answers is a list, or an error of ours; nothing is told to others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrun.errors import HubError, UsageError
from llmrun.hub.client import new_session
from llmrun.hub.settings import check_settings
from tests.hub_server.content import of_bytes
from tests.hub_server.fault import LOGIN_PAGE, Fault
from tests.hub_server.repo import Repo
from tests.hub_server.server import HubServer

REPO = "acme/tiny-GGUF"
NAME = "tiny-Q4_K_M.gguf"

# the Hub's client reads the environment when it is imported, so whoever asks is a process; it asks all it is told
_LIST = """
import json, sys
from llmrun.errors import LLMRunError
from llmrun.hub.repository import list_repository, search_repositories
said = []
for asked in json.load(sys.stdin):
    try:
        found = list_repository(asked) if "/" in asked else search_repositories(asked, 3)
        said.append(["", str(found)])
    except LLMRunError as error:
        said.append([type(error).__name__, f"{error.message}; {error.hint}"])
print(json.dumps(said))
"""


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as started:
        started.add(Repo(REPO, {NAME: of_bytes(b"GGUF" + bytes(100))}))
        yield started


def asked(server: HubServer, home: Path, *names: str, **variables: str) -> list[tuple[str, str]]:
    """What is said of repositories, and of words without a slash: the error's kind, "" for none, and its text."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LIST],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        timeout=60,
        env=server.environment(home) | variables,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(kind, text) for kind, text in json.loads(done.stdout)]


def test_a_list_that_goes_on_elsewhere_is_not_followed(server: HubServer, tmp_path: Path) -> None:
    """The token would go along."""
    with HubServer() as other:
        link = {"Link": f'<{other.url}/api/models/{REPO}/tree/main>; rel="next"'}
        server.faults.append(Fault("hub", path="/tree/", headers=link))
        ((kind, text),) = asked(server, tmp_path, REPO, HF_TOKEN="hf_good")
        assert other.log == []
    assert kind == "HubError"
    assert "which is not asked: it is another server" in text
    assert {request.authorization for request in server.log} == {"Bearer hf_good"}


def test_the_hubs_client_asks_nobody_but_the_hub(server: HubServer) -> None:
    with HubServer() as other, new_session(server.url) as session:
        assert session.get(f"{server.url}/api/models/{REPO}").status_code == 200
        with pytest.raises(HubError):
            session.get(f"{other.url}/api/models/{REPO}", headers={"authorization": "Bearer hf_good"})
        assert other.log == []


# what is no answer

COMMIT = "a" * 40
ABOUT = {"id": "o/r", "sha": COMMIT, "tags": ["license:mit"], "siblings": []}
ENTRY = {"type": "file", "oid": "b" * 40, "size": 5, "path": "a.gguf"}
NO_JSON = (LOGIN_PAGE, b"", b'{"id":', b'{"id":"\xff\xfe"}', b"[" * 100_000)
NOTHING = (b"{}", b"5", b"null", b"[1]")


def bodies(*values: object) -> tuple[bytes, ...]:
    return tuple(json.dumps(value).encode() for value in values)


def no_answers(server: HubServer, home: Path, kind: str, answers: tuple[bytes, ...]) -> None:
    """Check that each of these is said to be no answer, or is a list all the same."""
    names = [f"o/r{number}" if kind != "search" else f"word{number}" for number in range(len(answers))]
    for name, answer in zip(names, answers, strict=True):
        if kind == "tree":
            about = json.dumps(ABOUT | {"id": name}).encode()
            server.faults.append(Fault("hub", path=f"/api/models/{name}$", status=200, body=about))
        path = {"about": f"/api/models/{name}$", "tree": f"/{name}/tree/", "search": "/api/models$"}[kind]
        server.faults.append(Fault("hub", path=path, status=200, body=answer))
    said = asked(server, home, *names)
    wrong = [(answer[:80], *one) for answer, one in zip(answers, said, strict=True) if one[0] != "HubError"]
    assert wrong == []


def test_what_is_no_repository_is_said_to_be_none(server: HubServer, tmp_path: Path) -> None:
    strange: tuple[dict[str, object], ...] = (
        {"sha": 7},
        {"sha": None},
        {"id": 7},
        {"id": "../../x"},
        {"id": None},
        {"siblings": [1]},
    )
    answers = bodies(*(ABOUT | one for one in strange))
    no_answers(server, tmp_path, "about", (*NO_JSON, *NOTHING, b"[]", *answers))


def test_what_is_no_list_of_files_is_said_to_be_none(server: HubServer, tmp_path: Path) -> None:
    sha256_of_5 = {"oid": 5, "size": 1, "pointerSize": 1}
    strange: tuple[dict[str, object], ...] = (
        {"path": 5},
        {"lfs": "x"},
        {"lfs": {}},
        {"lfs": sha256_of_5},
        {"size": "5"},
        {"size": -1},
    )
    answers = bodies(*([ENTRY | one] for one in strange), [{}], [{"type": "file", "size": 1, "oid": "x"}], ["x"])
    no_answers(server, tmp_path, "tree", (*NO_JSON, *NOTHING[1:], *answers))


def test_what_is_no_list_of_models_is_said_to_be_none(server: HubServer, tmp_path: Path) -> None:
    answers = bodies([{}], [{"id": 5}], [{"id": "\x1b[31m"}])
    no_answers(server, tmp_path, "search", (*NO_JSON, *NOTHING[1:], *answers))


def test_a_list_of_empty_pages_without_end_is_given_up(server: HubServer, tmp_path: Path) -> None:
    link = {"Link": f'<{server.url}/api/models/{REPO}/tree/main>; rel="next"'}
    server.faults.append(Fault("hub", path="/tree/", status=200, body=b"[]", headers=link, times=1000))
    ((kind, text),) = asked(server, tmp_path, REPO)
    assert (kind, "which did not end" in text) == ("HubError", True)


def test_a_login_page_in_place_of_a_list_is_said_to_be_one(server: HubServer, tmp_path: Path) -> None:
    server.faults += [Fault("hub", page=True, times=2)]
    said = asked(server, tmp_path, REPO, "tiny")
    assert [kind for kind, _ in said] == ["HubError", "HubError"]
    assert all("sent a web page" in text for _, text in said)


def test_what_is_strange_beside_the_list_does_no_harm(server: HubServer, tmp_path: Path) -> None:
    about = json.dumps(ABOUT | {"id": REPO, "sha": server.repos[REPO].commit, "tags": [1, "license:mit"]}).encode()
    server.faults.append(Fault("hub", path=f"/api/models/{REPO}$", status=200, body=about))
    found = json.dumps([{"id": "a/b", "downloads": "x", "likes": [], "gguf": {"architecture": 5}}]).encode()
    server.faults.append(Fault("hub", path="/api/models$", status=200, body=found))
    listed, hit = asked(server, tmp_path, REPO, "tiny")
    assert (listed[0], "license='mit'" in listed[1]) == ("", True)
    assert (hit[0], "downloads=0, likes=0" in hit[1]) == ("", True)


# what people set


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"HF_ENDPOINT": "hub.example"}, "HF_ENDPOINT is 'hub.example', which is no address of a server"),
        ({"HF_ENDPOINT": ""}, "HF_ENDPOINT is '', which is no address of a server"),
        ({"HF_ENDPOINT": "http://u:hf_secret@hub:abc"}, "HF_ENDPOINT is 'http://hub:abc', which is no address"),
        ({"HF_ENDPOINT": "hf_secret@hub"}, "HF_ENDPOINT is 'hub', which is no address"),
        ({"HF_HUB_DOWNLOAD_TIMEOUT": "abc"}, "HF_HUB_DOWNLOAD_TIMEOUT is 'abc', which is no number of seconds"),
        ({"HF_HUB_ETAG_TIMEOUT": "-5"}, "HF_HUB_ETAG_TIMEOUT is '-5', which is no number of seconds"),
        ({"HF_TOKEN": "hf_secret\N{LATIN SMALL LETTER E WITH ACUTE}"}, "HF_TOKEN has characters that no token has"),
    ],
)
def test_what_is_set_and_cannot_be_meant_is_named(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_settings(variables)
    assert caught.value.message.startswith(message)
    assert "hf_secret" not in f"{caught.value.message} {caught.value.hint}"


def test_what_is_usually_set_can_be_meant() -> None:
    check_settings({})
    check_settings({"HF_ENDPOINT": "https://hub.example/", "HF_TOKEN": " hf_good\n", "HF_HUB_DOWNLOAD_TIMEOUT": "30"})


def test_settings_are_checked_before_the_hubs_client_reads_them(server: HubServer, tmp_path: Path) -> None:
    ((kind, text),) = asked(server, tmp_path, REPO, HF_HUB_DOWNLOAD_TIMEOUT="abc")
    assert (kind, "HF_HUB_DOWNLOAD_TIMEOUT" in text) == ("UsageError", True)


@pytest.mark.parametrize("proxy", ["nonsense://u:hf_secret@x", "http://u:hf_secret@x:abc", "socks5://u:hf_secret@x:1"])
def test_a_proxy_that_is_none_is_named_by_its_variable(server: HubServer, tmp_path: Path, proxy: str) -> None:
    ((kind, text),) = asked(server, tmp_path, REPO, HTTP_PROXY=proxy, NO_PROXY="")
    assert (kind, "HTTP_PROXY names no proxy that can be used" in text) == ("UsageError", True)
    assert "hf_secret" not in text


def test_certificates_that_are_not_there_are_named_by_their_variable(server: HubServer, tmp_path: Path) -> None:
    ((kind, text),) = asked(server, tmp_path, REPO, SSL_CERT_FILE=str(tmp_path / "none.pem"))
    assert (kind, "SSL_CERT_FILE names no certificates" in text) == ("UsageError", True)


def test_a_token_that_cannot_be_read_is_named_by_its_file(server: HubServer, tmp_path: Path) -> None:
    folder, binary, other = tmp_path / "folder", tmp_path / "binary", tmp_path / "other"
    folder.mkdir()
    binary.write_bytes(b"hf_secret\xff\xfe")
    other.write_text("hf_secret\N{LATIN SMALL LETTER E WITH ACUTE}", encoding="utf-8")
    for path in (folder, binary, other):
        ((kind, text),) = asked(server, tmp_path, REPO, HF_TOKEN_PATH=str(path))
        assert (kind, f"the token in {path} cannot be used" in text) == ("UsageError", True)
        assert "hf_secret" not in text
    assert server.log == []
