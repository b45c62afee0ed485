"""What pages of other sites can do to the server, in a real browser: nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.serving import Server, serving

selenium = pytest.importorskip("selenium")

from tests.browser import CHROMIUM, Browser, browsing, second_site  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
CHAT = "/v1/chat/completions"
# Every way in which a page can send something to another origin, or read from it.
TRIES = """
const url = arguments[0], done = arguments[arguments.length - 1];
const body = JSON.stringify({ messages: [{ role: "user", content: "hello" }], max_tokens: 1 });
const chat = url + "/v1/chat/completions";
const json = { "Content-Type": "application/json" };
const get = (path, how) => fetch(url + path, how);
const element = (tag, set) => new Promise((loaded, failed) => {
  const made = Object.assign(document.createElement(tag), set, { onload: loaded, onerror: failed });
  document.body.append(made);
});
const opened = (source) => new Promise((onopen, onerror) => Object.assign(source, { onopen, onerror }));
const tries = {
  "post json": () => fetch(chat, { method: "POST", headers: json, body }),
  "post text": () => fetch(chat, { method: "POST", body }),
  "get": () => get("/v1/models"),
  "get health": () => get("/health"),
  "image": () => element("img", { src: url + "/v1/models" }),
  "script": () => element("script", { src: url + "/v1/models" }),
  "stream": () => opened(new EventSource(chat)),
  "socket": () => opened(new WebSocket(chat.replace("http", "ws"))),
};
const blind = [
  () => fetch(chat, { method: "POST", mode: "no-cors", body }),
  () => fetch(chat, { method: "POST", mode: "no-cors", body: new URLSearchParams({ a: body }) }),
  () => navigator.sendBeacon(chat, body),
  () => navigator.sendBeacon(chat, new Blob([body], { type: "text/plain" })),
];
(async () => {
  const passed = [];
  for (const [name, attempt] of Object.entries(tries)) {
    try { await attempt(); passed.push(name); } catch { /* as it should be */ }
  }
  for (const attempt of blind) { try { await attempt(); } catch { /* it may fail */ } }
  done(passed);
})();
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as opened:
        yield opened


def test_a_page_of_a_second_site_gets_nothing_done(server: Server, browser: Browser) -> None:
    with second_site("<!doctype html><title>another site</title><body>") as other:
        browser.driver.get(other)
        assert browser.driver.execute_async_script(TRIES, server.url) == []
    figures = server.ask("/metrics")[1]
    assert 'path="/v1/chat/completions",status="403"' in figures  # they came, and were refused
    assert f'path="{CHAT}",status="200"' not in figures
    assert f'path="{CHAT}",status="400"' not in figures
    assert "llmrun_completion_tokens_total{" not in figures


def test_a_form_of_a_second_site_gets_nothing_done(server: Server, browser: Browser) -> None:
    """Also one that makes its body look like JSON."""
    name = json.dumps({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1})[:-1] + ', "user": "'
    form = f"<form method=post enctype=text/plain action='{server.url}{CHAT}'><input name='{name}' value='\"}}'></form>"
    with second_site(f"<!doctype html><body>{form}") as other:
        browser.driver.get(other)
        browser.driver.execute_script("document.forms[0].submit()")
        browser.until(lambda: "may not ask" in browser.text("body") or None, "the refusal")


def test_a_name_that_was_made_to_resolve_here_gets_nothing(server: Server, browser: Browser) -> None:
    """Browsers take every name under localhost for this machine: to the server that is a rebound name as any."""
    browser.driver.get(server.url.replace("127.0.0.1", "attacker.localhost") + "/v1/models")
    assert "does not answer to Host" in browser.text("body")
    assert "guide" not in browser.text("body")


def test_a_site_that_was_named_can_ask(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> None:
    with second_site("<!doctype html><body>") as other:
        home = tmp_path_factory.mktemp("open")
        with serving(home, "guide", "--threads", "1", "--allow-origin", other) as running:
            browser.driver.get(other)
            passed = browser.driver.execute_async_script(TRIES, running.url)
    assert {"post json", "get", "get health"} <= set(passed)
    assert "post text" in passed  # it was let in, and answered that this is no JSON
