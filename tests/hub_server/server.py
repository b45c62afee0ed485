"""The fake Hub: two servers on loopback, as the real one is on two hosts, and a log of what they were asked."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import quote

from tests.hub_server.cdn import CDNHandler
from tests.hub_server.content import Content
from tests.hub_server.fault import Fault
from tests.hub_server.handler import Handler
from tests.hub_server.hub import HubHandler
from tests.hub_server.repo import Repo

_NO_FAULT = Fault("hub", times=0)


@dataclass
class Request:
    """A request that came, and how it was answered: status, and bytes of its body."""

    origin: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int = 0
    sent: int = 0

    def __str__(self) -> str:
        wanted = f" [{self.range}]" if self.range else ""
        return f"{self.origin} {self.method} {self.path}{wanted} -> {self.status}, {self.sent:,} bytes"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are part of it."""


class HubServer:
    """A Hub with repositories, faults that strike once each, and tokens: whether each may have what is gated."""

    def __init__(self, port: int = 0, *, page_size: int = 1000) -> None:
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.tokens = {"hf_good": True, "hf_other": False}
        self.page_size = page_size
        self.ending = threading.Event()
        self._signatures: dict[str, Content] = {}
        self._lock = threading.Lock()
        self._servers = [self._serve(HubHandler, port), self._serve(CDNHandler, 0)]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def _serve(self, kind: type[Handler], port: int) -> _Server:
        server = _Server(("127.0.0.1", port), type(kind.__name__, (kind,), {"owner": self}))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def __enter__(self) -> HubServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End both servers, and whatever hangs."""
        self.ending.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, repo: Repo) -> Repo:
        """Have a repository; one with the same name is a new commit of it."""
        self.repos[repo.id] = repo
        return repo

    def rename(self, old: str, new: str) -> None:
        """Have a repository answer by another name, and send on who asks for the old one."""
        self.repos[new] = replace(self.repos.pop(old), id=new)
        self.renamed[old] = new

    def signed(self, repo: Repo, path: str) -> str:
        """Return an address for a file's bytes, with a signature of its own."""
        content = repo.files[path]
        with self._lock:
            signature = f"s{len(self._signatures)}"
            self._signatures[signature] = content
        asked = quote(f"{repo.id}/{path}", safe="")
        return f"{self.cdn_url}/xet-bridge-us/{content.sha256}?Expires=1781098782&Signature={signature}&path={asked}"

    def expire_signatures(self) -> None:
        """Have every address that was given out be refused from now on."""
        with self._lock:
            self._signatures = dict.fromkeys(self._signatures, Content(b"", 0, stand_in="expired"))

    def content_of(self, signature: str, sha256: str) -> Content | None:
        """Return what a signature is for, None for one that is not good, or not for this."""
        content = self._signatures.get(signature)
        return content if content is not None and content.sha256 == sha256 else None

    def written_down(self, handler: Handler, path: str) -> Request:
        """Put a request into the log."""
        wanted, token = handler.headers.get("Range"), handler.headers.get("Authorization")
        record = Request(handler.origin, handler.command, path, wanted, token)
        self.log.append(record)
        return record

    def struck_by(self, origin: str, method: str, path: str) -> Fault:
        """Return the first fault for a request, which is used up by it."""
        with self._lock:
            for fault in self.faults:
                if fault.is_for(origin, method, path):
                    fault.times -= 1
                    return fault
        return _NO_FAULT

    def requests(self, origin: Literal["hub", "cdn"] | None = None) -> list[Request]:
        """Return what was asked, of one of the two servers or of both."""
        return [request for request in self.log if origin in (None, request.origin)]

    def clear_log(self) -> None:
        """Forget what was asked."""
        self.log.clear()

    @property
    def bytes_sent(self) -> int:
        """Bytes of files that left the second server."""
        return sum(request.sent for request in self.log)

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment in which a program asks this Hub, and keeps everything in a folder."""
        kept = dict(_without_hub_variables())
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }


def _without_hub_variables() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if not name.startswith(("HF_", "HUGGING", "LLMRUN_", "XDG_", "OLLAMA_")) and not name.lower().endswith(
            "_proxy"
        ):
            yield name, value
