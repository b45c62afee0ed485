"""What the tests of the real program on a Hub share: the Hub, and a user with an empty home."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.environments import clean_environment
from tests.hub_server.repo import Repo
from tests.hub_server.repos import (
    gated_repo,
    guide_repo,
    many_quants_repo,
    raw_split_repo,
    split_repo,
    vision_repo,
)
from tests.hub_server.server import HubServer

Program = Callable[..., subprocess.CompletedProcess[str]]

SAYS = "The KV cache keeps"  # guide's answer to QUESTION begins so
QUESTION = "what is a kv cache?"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(scope="session")
def many() -> Repo:
    """A repository with 25 quantizations of 8 billion weights."""
    return many_quants_repo()


@pytest.fixture
def hub(many: Repo) -> Iterator[HubServer]:
    with HubServer() as started:
        for repo in (guide_repo(), split_repo(), vision_repo(), gated_repo(), raw_split_repo(), many):
            started.add(repo)
        yield started


@pytest.fixture
def program(hub: HubServer, tmp_path: Path) -> Program:
    """Runs llmrun as a new user would, with this Hub for the real one."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        greedy = ("--temp", "0") if arguments[0] in ("run", "chat") else ()  # the same answer every time
        return subprocess.run(
            [sys.executable, "-P", "-m", "llmrun.cli.main", *arguments, *greedy],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(hub, tmp_path) | variables,
            check=False,
        )

    return run


def environment(hub: HubServer, home: Path) -> dict[str, str]:
    told = hub.environment(home)
    return clean_environment(home) | {name: told[name] for name in told if name.startswith(("HF_", "NO_PROXY"))}


def wire(hub: HubServer) -> list[tuple[str, str, int | None]]:
    return [(asked.origin, asked.method, asked.status) for asked in hub.log]
