"""What the tests of fetching share: a repository on a Hub of our own, a cache, and all that was told meanwhile."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from llmrun.errors import LLMRunError
from llmrun.hub.client import Hub, new_session
from llmrun.hub.fetch import FetchListener, FetchWish, fetch
from llmrun.hub.retries import Retries
from llmrun.variant import ModelFile, RemoteFile
from tests.hub_server.content import of_bytes
from tests.hub_server.repo import Repo
from tests.hub_server.server import HubServer

if TYPE_CHECKING:
    import httpx2

REPO = "acme/tiny-GGUF"
NAME = "tiny-Q4_K_M.gguf"
CONTENT = b"GGUF" + random.Random(7).randbytes(3_000_000)
README = b"# tiny\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILES = {NAME: CONTENT, "README.md": README}


@dataclass
class Heard:
    """What was told of fetching, and how long would have been waited."""

    waits: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    checked: list[tuple[int, int]] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)
    done: list[Path] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    def _hear_done(self, _: ModelFile, path: Path, checked: bool) -> None:
        self.done.append(path)
        self.right.append(checked)

    def listener(self) -> FetchListener:
        """Who writes all of it down."""
        return FetchListener(
            started=lambda _, here: self.started.append(here),
            waiting=lambda _, here: self.waiting.append(here),
            checking=lambda _, *bytes_: self.checked.append(bytes_),
            progress=lambda _, here: self.progress.append(here),
            retrying=lambda _, why, __: self.reasons.append(why),
            restarting=lambda _, why: self.restarts.append(why),
            slow=self.slow.append,
            done=self._hear_done,
        )


@dataclass
class Bench:
    """A Hub, a cache, and what is wanted of one with the other."""

    server: HubServer
    cache: Path
    token: str | None = None
    heard: Heard = field(default_factory=Heard)
    session: httpx2.Client = field(default_factory=new_session)
    meanwhile: Callable[[], None] = lambda: None  # done while it would be waited for the next try

    def close(self) -> None:
        """Close the connections."""
        self.session.close()

    @property
    def commit(self) -> str:
        """What `main` is at the moment."""
        with urllib.request.urlopen(f"{self.server.url}/api/models/{REPO}") as answer:
            return str(json.load(answer)["sha"])

    def file(self, name: str = NAME, content: bytes | None = None) -> ModelFile:
        """A file as a listing has it: with its sha256 if it is a large one."""
        known = FILES[name] if content is None else content
        sha256 = hashlib.sha256(known).hexdigest() if name.endswith(".gguf") else None
        return ModelFile(name, len(known), RemoteFile(REPO, self.commit, name), sha256)

    def url_of(self, name: str = NAME) -> str:
        """Where the Hub says where a file is."""
        return f"{self.server.url}/{REPO}/resolve/{self.commit}/{name}"

    def hub(self, endpoint: str | None = None, answer_seconds: float = 1.0) -> Hub:
        """Whom to ask."""
        return Hub(endpoint or self.server.url, self.session, self.token, answer_seconds)

    def fetch(self, *files: ModelFile, hub: Hub | None = None, **wish: object) -> tuple[Path, ...]:
        """Fetch without waiting where the program would; what is asked for afterwards is in the server's log alone."""
        wanted = files or (self.file(),)
        self.server.clear_log()
        how = FetchWish(folder=self.cache, **wish)  # type: ignore[arg-type]
        return fetch(wanted, how, self.heard.listener(), hub or self.hub(), lambda: Retries(pause=self._wait))

    def _wait(self, seconds: float) -> None:
        self.heard.waits.append(seconds)
        self.meanwhile()

    def failure(self, *files: ModelFile, hub: Hub | None = None, **wish: object) -> LLMRunError:
        """The error that fetching ends with, and after which nothing wrong lies where a file should."""
        try:
            found = self.fetch(*files, hub=hub, **wish)
        except LLMRunError as error:
            self.check_nothing_is_wrong()
            return error
        raise AssertionError(f"{found} should not have come")

    def check_nothing_is_wrong(self) -> None:
        """Every file that has its name has the right bytes."""
        contents = set(FILES.values())
        for path in self.cache.glob("models--*/snapshots/*/**/*"):
            assert path.is_dir() or path.read_bytes() in contents
        for path in self.cache.glob("models--*/blobs/*"):
            assert path.suffix in (".incomplete", ".downloadInProgress") or path.read_bytes() in contents

    @property
    def blobs(self) -> Path:
        """Where the cache has the repository's bytes."""
        return self.cache / "models--acme--tiny-GGUF" / "blobs"

    @property
    def part(self) -> Path:
        """What came of the model so far."""
        return self.blobs / f"{SHA256}.llmrun.incomplete"

    def leave(self, content: bytes, name: str = f"{SHA256}.llmrun.incomplete") -> Path:
        """Leave something in the cache, as a download that ended would."""
        self.blobs.mkdir(parents=True, exist_ok=True)
        path = self.blobs / name
        path.write_bytes(content)
        return path

    @property
    def wire(self) -> list[tuple[str, str, int | None, str | None]]:
        """What was asked: of whom, how, with what answer, and for which range."""
        return [(asked.origin, asked.method, asked.status, asked.range) for asked in self.server.requests()]

    @property
    def hub_host(self) -> str:
        """As people are told."""
        return urlsplit(self.server.url).netloc

    @property
    def cdn_host(self) -> str:
        """As people are told."""
        return urlsplit(self.server.cdn_url).netloc

    def start(self, home: Path, **variables: str) -> subprocess.Popen[str]:
        """Fetch the model in a process of its own, which prints each event."""
        file = self.file()
        assert isinstance(file.origin, RemoteFile)
        self.server.clear_log()
        command = [sys.executable, "-P", "-c", _FETCH, NAME, str(file.size), file.origin.commit, SHA256]
        environment = self.server.environment(home) | {"HF_HUB_CACHE": str(self.cache)} | variables
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


_FETCH = f"""
import sys
from llmrun.hub.fetch import FetchListener, fetch
from llmrun.variant import ModelFile, RemoteFile
name, size, commit, sha256 = sys.argv[1:]
def say(*said): print(*said, flush=True)
listener = FetchListener(
    started=lambda _, here: say("started", here),
    waiting=lambda _, here: say("waiting", here),
    progress=lambda _, here: say("progress", here),
    slow=lambda host: say("slow", host),
    done=lambda _, path, __: say("done", path),
)
fetch([ModelFile(name, int(size), RemoteFile({REPO!r}, commit, name), sha256)], listener=listener)
"""


def repository(files: Mapping[str, bytes] = FILES, gated: Literal[False, "auto"] = False) -> Repo:
    """A repository with these files: a model, and what is written about it."""
    return Repo(REPO, {name: of_bytes(content) for name, content in files.items()}, gated=gated)


@contextmanager
def nobody() -> Iterator[str]:
    """An address that nobody answers at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
