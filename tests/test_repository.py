"""What the Hub says of repositories: whatever it answers is a list, or an error of ours; nothing is told to others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrun.errors import HubError
from llmrun.hub.client import new_session
from tests.hub_server.content import of_bytes
from tests.hub_server.fault import Fault
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
