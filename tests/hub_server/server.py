"""The fake Hub: two servers on loopback, as the real one is on two hosts, and a log of what they were asked."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from tests.hub_server.cdn import CDNHandler
from tests.hub_server.content import Content
from tests.hub_server.fault import NO_FAULT, Fault
from tests.hub_server.handler import Handler
from tests.hub_server.history import History
from tests.hub_server.hub import HubHandler
from tests.hub_server.repo import Repo
from tests.hub_server.request import Origin, Request

_OURS = ("HF_", "HUGGING", "TRANSFORMERS_", "LLMRUN_", "LLAMA_", "OLLAMA_", "XDG_")
_EXPIRES = 1781098782  # a moment; whether a signature is good is not a question of time here


class HubServer:
    """A Hub with repositories and faults. tokens: the ones it knows, and whether each may have what is not for all.

    port: of the Hub, 0 is any that is free. page_size: entries of a list that come with one answer. xet: files are
    said to be in Xet too. direct: large files come from the Hub itself, as mirrors have it, and not from the CDN.
    on_answer: told each request when it has been answered.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        page_size: int = 1000,
        xet: bool = False,
        direct: bool = False,
        on_answer: Callable[[Request], None] = lambda _: None,
    ) -> None:
        self.histories: dict[str, History] = {}
        self.renamed: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.tokens = {"hf_good": True, "hf_other": False}
        self.page_size, self.xet, self.direct = page_size, xet, direct
        self.answered = on_answer
        self.ending = threading.Event()
        self._signatures: dict[str, Content] = {}
        self._signed = 0
        self._lock = threading.Lock()
        self._servers = [_Server(self, HubHandler, port), _Server(self, CDNHandler, 0)]
        self.url, self.cdn_url = (server.url for server in self._servers)

    def __enter__(self) -> HubServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End both servers, and all connections to them."""
        self.ending.set()
        for server in self._servers:
            server.close()

    # what there is

    @property
    def repos(self) -> dict[str, Repo]:
        """The repositories as they are now, by name."""
        return {name: history.main for name, history in self.histories.items()}

    def add(self, repo: Repo, branch: str = "main") -> Repo:
        """Have a repository, or a new commit of one with this name."""
        self.histories.setdefault(repo.id, History()).commit(repo, branch)
        return repo

    def tag(self, repo_id: str, name: str) -> None:
        """Give what a repository is now a name that stays with it."""
        self.histories[repo_id].tag(name)

    def rename(self, old: str, new: str) -> None:
        """Have a repository answer by another name, and send on who asks for the old one."""
        history = self.histories.pop(old)
        history.rename(new)
        self.histories[new] = history
        self.renamed[old] = new

    # where it can be had

    def sign(self, repo: Repo, path: str) -> str:
        """Return an address for a file's bytes, with a signature of its own."""
        content = repo.contents[path]
        with self._lock:
            self._signed += 1
            signature = f"s{self._signed}"
            self._signatures[signature] = content
        asked = quote(f"{repo.id}/{path}", safe="")
        query = f"Expires={_EXPIRES}&Signature={signature}&Key-Pair-Id=FAKE&path={asked}"
        return f"{self.cdn_url}/xet-bridge-us/{content.sha256}?{query}"

    def content_of(self, signature: str) -> Content | None:
        """Return what a signature is for, None for one that is not good."""
        return self._signatures.get(signature)

    def expire_signatures(self) -> None:
        """Have every address that was given out be refused from now on."""
        with self._lock:
            self._signatures.clear()

    # what happens

    def struck_by(self, request: Request) -> Fault:
        """Put a request into the log, and return the first fault that is for it, which is used up by that."""
        with self._lock:
            self.log.append(request)
            for number, fault in enumerate(self.faults):
                if fault.times > 0 and fault.is_for(request.origin, request.method, request.path):
                    self.faults[number] = replace(fault, times=fault.times - 1)
                    return fault
        return NO_FAULT

    def requests(self, origin: Origin | None = None) -> list[Request]:
        """Return what was asked, of one of the two servers or of both."""
        return [request for request in self.log if origin in (None, request.origin)]

    def clear_log(self) -> None:
        """Forget what was asked."""
        self.log.clear()

    @property
    def bytes_sent(self) -> int:
        """Bytes of files that left the second server."""
        return sum(request.sent for request in self.requests("cdn"))

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment in which a program asks this Hub, and keeps everything in a folder.

        It is this process's, without what could lead a program elsewhere: tokens, proxies, caches, folders.
        """
        return _own_environment() | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HOME": str(home),
            "NO_PROXY": "127.0.0.1",
        }


class _Server(http.server.ThreadingHTTPServer):
    """One of the two, which knows its connections, so that it can end them."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, owner: HubServer, kind: type[Handler], port: int) -> None:
        super().__init__(("127.0.0.1", port), type(kind.__name__, (kind,), {"owner": owner}))
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._open: set[Any] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the connection."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def close(self) -> None:
        """End, and all connections with it."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):  # it ended by itself meanwhile
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up, and all of what is our own mistake."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _own_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OURS) and not name.lower().endswith("_proxy")
    }
