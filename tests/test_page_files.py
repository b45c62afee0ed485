"""The files of the page, as the real server gives them."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrun.server.page import ASSETS
from tests.serving import Server, serving

HTML = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


def get(server: Server, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(server.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_browsers_get_the_page_and_others_a_line(server: Server) -> None:
    status, headers, body = get(server, "/", HTML)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Accept" in headers["vary"]
    assert b"<title>llmrun</title>" in body
    for accept in ("*/*", "application/json", "text/plain"):
        assert get(server, "/", {"Accept": accept})[2] == b"Ollama is running"


def test_what_may_run_is_what_is_served(server: Server) -> None:
    for path in ("/", "/page/main.js"):
        policy = get(server, path, HTML)[1]["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(
            policy
        )
        assert not any("unsafe" in part or "http" in part or "*" in part for part in policy)


def test_every_file_of_the_page_is_served_and_no_other(server: Server) -> None:
    folder = Path(__file__).parent.parent / "llmrun" / "server" / "page"
    assert sorted(ASSETS) == sorted(path.name for path in folder.iterdir() if path.name != "index.html")
    kinds = {get(server, f"/page/{name}", {})[1]["content-type"] for name in ASSETS}
    assert kinds == {"text/javascript; charset=utf-8", "text/css; charset=utf-8", "image/svg+xml"}
    for name in ("index.html", "page.py", "../page.py", "..%2fpage.py", "%2e%2e%2fpage.py", "", "MAIN.JS"):
        assert get(server, f"/page/{name}", HTML)[0] == 404, name


def test_what_has_not_changed_is_not_sent_again(server: Server) -> None:
    status, headers, body = get(server, "/page/main.js", {})
    assert (status, headers["cache-control"]) == (200, "no-cache")
    assert body
    assert get(server, "/page/main.js", {"If-None-Match": headers["etag"]})[::2] == (304, b"")
    assert get(server, "/page/main.js", {"If-None-Match": '"other"'})[0] == 200
