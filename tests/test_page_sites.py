"""What pages of other sites cannot do to the server, in a real browser; and the key, where the server wants one."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.browser import REBOUND, Browser, browsing, needs_browser, second_site
from tests.serving import Server, serving

pytestmark = needs_browser

KEY = "correct-horse-battery-staple-0123456789"
CHAT = "/v1/chat/completions"
BODY = '{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as opened:
        yield opened


@pytest.fixture
def elsewhere(browser: Browser) -> Iterator[Browser]:
    """The browser with a page of another site open."""
    with second_site("<!doctype html><title>elsewhere</title><body>") as address:
        browser.driver.get(address)
        yield browser


def answers(server: Server, status: str) -> int:
    """How many requests for an answer ended so, as the server itself has counted."""
    figures = server.ask("/metrics")[1]
    found = re.findall(rf'llmrun_requests_total{{method="POST",path="{CHAT}",status="{status}"}} (\d+)', figures)
    return int(found[0]) if found else 0


def test_the_count_counts(server: Server) -> None:
    """Else the tests below would see nothing of what they are for."""
    before = answers(server, "200")
    assert server.ask(CHAT, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})[0] == 200
    assert answers(server, "200") == before + 1


@pytest.mark.parametrize(
    "how",
    [
        '{ method: "POST", mode: "no-cors", headers: { "Content-Type": "text/plain" }, body }',
        '{ method: "POST", mode: "no-cors", body }',
        '{ method: "POST", mode: "no-cors", body: new Blob([body]) }',
        '{ method: "POST", headers: { "Content-Type": "application/json" }, body }',
    ],
    ids=["text", "nothing", "blob", "json"],
)
def test_another_sites_page_cannot_ask(server: Server, elsewhere: Browser, how: str) -> None:
    before = answers(server, "200")
    script = f"const [to, body] = given; return await fetch(to, {how}).then((got) => got.type, () => 'refused');"
    assert elsewhere.run_async(script, server.url + CHAT, BODY) in ("opaque", "refused")
    assert answers(server, "200") == before


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_another_sites_form_cannot_ask(server: Server, elsewhere: Browser, kind: str) -> None:
    """A field named `{"a":"` with the value `"}` is JSON, as a form of text/plain sends it."""
    before, refused = answers(server, "200"), answers(server, "403")
    elsewhere.run(
        """const [to, kind, body] = arguments;
        const form = Object.assign(document.createElement("form"), { action: to, method: "POST", enctype: kind });
        const half = body.indexOf("hi");
        const field = Object.assign(document.createElement("input"), { name: body.slice(0, half) + "=" });
        field.value = body.slice(half);
        form.append(field);
        document.body.append(form);
        form.submit();""",
        server.url + CHAT,
        kind,
        BODY,
    )
    elsewhere.until(lambda: answers(server, "403") > refused)
    assert answers(server, "200") == before


@pytest.mark.parametrize("path", ["/v1/models", "/v1/plan", "/api/tags", "/health", "/openapi.json", "/page/main.js"])
def test_another_sites_page_can_read_nothing(server: Server, elsewhere: Browser, path: str) -> None:
    read = """return await fetch(given[0], given[1]).then((got) => got.text(), () => null);"""
    assert elsewhere.run_async(read, server.url + path, {}) is None
    assert not elsewhere.run_async(read, server.url + path, {"mode": "no-cors"})


def test_another_site_cannot_show_the_page_as_its_own(server: Server, elsewhere: Browser) -> None:
    elsewhere.said()
    elsewhere.run(
        "const frame = document.createElement('iframe'); frame.src = arguments[0]; document.body.append(frame);",
        server.url + "/",
    )
    elsewhere.until(lambda: any("frame" in line.lower() for line in elsewhere.said()))


def test_another_sites_page_cannot_use_the_pages_scripts(server: Server, elsewhere: Browser) -> None:
    script = "return await import(given[0]).then(() => 'run', () => 'refused');"
    assert elsewhere.run_async(script, server.url + "/page/units.js") == "refused"


def test_a_name_that_was_bound_to_this_machine_leads_nowhere(server: Server, browser: Browser) -> None:
    """DNS rebinding: then the browser takes the server for a part of the other site."""
    port = urlsplit(server.url).port
    for path in ("/", "/v1/models", "/page/main.js"):
        browser.driver.get(f"http://{REBOUND}:{port}{path}")
        assert browser.run("return [location.hostname, document.title]") == [REBOUND, ""]
        assert f"{REBOUND}" in browser.text("body")  # it says what it is not
        assert "guide" not in browser.text("body")


def test_the_key_is_asked_for(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By the browser, as a password, before it has anything; and by the page, where the key no longer holds."""
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1", "--api-key", KEY) as server:
        assert {server.ask(path)[0] for path in ("/", "/page/main.js", "/v1/models", "/v1/plan", "/docs")} == {401}
        browser.send_with_all({"Authorization": "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()})
        browser.visit(server.url + "/")
        assert "cache" in browser.ask("What is a KV cache?")
        browser.send_with_all({})
        browser.send("hi")
        browser.type("wrong", "#key")
        browser.press("#key-dialog [type=submit]")
        assert "refused" in browser.see("#key-error").text
        browser.type(KEY, "#key")
        browser.press("#key-dialog [type=submit]")
        browser.until(lambda: len(browser.texts(".answered:not(.busy) .figures")) == 2)
        assert not browser.seen("#key-dialog")
        assert not browser.seen(".answered .error")
        kept = browser.run("return [JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie]")
        assert [KEY in place for place in kept] == [False, True, False]


def test_an_address_with_the_key_in_it_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Browsers give the key to the page, and not to its styles: the page goes where they do."""
    with (
        serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1", "--api-key", KEY) as server,
        browsing() as browser,
    ):
        browser.visit(server.url.replace("//", f"//me:{KEY}@") + "/")
        assert browser.run("return [document.baseURI, getComputedStyle(document.body).display]") == [
            server.url + "/",
            "grid",
        ]
        assert "cache" in browser.ask("What is a KV cache?")
        assert not browser.seen(".notice")


def test_a_page_without_its_scripts_says_what_to_do(server: Server, browser: Browser) -> None:
    browser.cdp("Network.enable")
    browser.cdp("Network.setBlockedURLs", urls=["*/page/desk.js"])
    try:
        browser.driver.get(server.url + "/")
        assert "If the address has a key in it" in browser.see("#unready").text
    finally:
        browser.cdp("Network.setBlockedURLs", urls=[])
    browser.visit(server.url + "/")
    assert browser.texts("#unready") == []
