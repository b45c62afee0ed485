"""What the page keeps in the browser: conversations, across reloads, out of it and without room."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser import Browser, browsing, needs_browser, write_endless
from tests.environments import clean_environment
from tests.serving import Server, serving

pytestmark = needs_browser

QUESTION = "What is a KV cache?"
ANSWER = "The KV cache keeps the keys and values of every token read so far, so that they are not computed again."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    endless = write_endless(tmp_path_factory.mktemp("models") / "endless.gguf")
    with serving(tmp_path_factory.mktemp("home"), "guide", str(endless), "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def browser(opened: Browser, server: Server) -> Browser:
    opened.come_first(server.url + "/")
    return opened


def test_a_reload_keeps_the_conversation(browser: Browser) -> None:
    browser.ask(QUESTION)
    browser.ask("hi")
    before = [browser.text("#thread"), browser.text("#conversations")]
    browser.reload()
    assert [browser.text("#thread"), browser.text("#conversations")] == before
    assert browser.see("#conversations [aria-current]").text == QUESTION


def test_who_comes_back_in_the_same_tab_finds_what_was_open(browser: Browser, server: Server) -> None:
    browser.ask(QUESTION)
    browser.visit(server.url + "/")
    assert browser.texts("#thread .asked .text") == [QUESTION]
    browser.press('header [data-do="new"]')
    browser.visit(server.url + "/")
    assert browser.seen("#welcome")
    assert browser.texts("#conversations .open span") == [QUESTION]


def test_an_answer_that_the_page_left_is_kept_as_far_as_it_came(browser: Browser, server: Server) -> None:
    browser.choose("#model", "endless")
    browser.send("go on")
    browser.until(
        lambda: browser.run_async(
            """const open = indexedDB.open("llmrun"); await new Promise((done) => (open.onsuccess = done));
            const all = open.result.transaction("conversations").objectStore("conversations").getAll();
            await new Promise((done) => (all.onsuccess = done)); open.result.close();
            return all.result.some((one) => one.messages.at(-1).content.includes("tick"));"""
        )
    )
    browser.visit(server.url + "/")
    browser.press("#conversations .open")
    browser.until(lambda: "tick" in browser.text(".answered > .text"))
    assert browser.text(".note").startswith("The page was left before")


def test_conversations_can_be_named_deleted_and_taken_back(browser: Browser) -> None:
    browser.ask("hi")
    browser.press('header [data-do="new"]')
    browser.ask(QUESTION)
    assert browser.texts("#conversations .open span") == [QUESTION, "hi"]
    browser.press('#conversations li:has([aria-current]) [data-do="rename"]')
    box = browser.see("#conversations input")  # what it was called is selected
    box.send_keys("About caches", Keys.ENTER)
    browser.until(lambda: browser.texts("#conversations .open span") == ["About caches", "hi"])
    browser.press('#conversations li:has([aria-current]) [data-do="remove"]')
    browser.until(lambda: browser.texts("#conversations .open span") == ["hi"])
    assert browser.seen("#welcome")
    browser.press(".notice button")
    browser.until(lambda: browser.text(".answered > .text") == ANSWER)
    assert browser.texts("#conversations .open span") == ["About caches", "hi"]


def test_an_export_can_be_read_by_the_program(browser: Browser, tmp_path: Path) -> None:
    browser.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.ask(QUESTION)
    browser.press('header [data-do="toggle-panel"]')
    browser.press('[data-do="export"]')
    file = browser.until(lambda: next(tmp_path.glob("llmrun-*.json"), None))
    program = [sys.executable, "-P", "-m", "llmrun.cli.main", "history"]
    environment = clean_environment(tmp_path)
    told = subprocess.run(
        [*program, "import", str(file), "--json"], capture_output=True, text=True, env=environment, check=True
    )
    key = json.loads(told.stdout)["id"]
    assert file.stem == f"llmrun-{key}"
    shown = subprocess.run([*program, "show", key], capture_output=True, text=True, env=environment, check=True).stdout
    assert "not computed again" in " ".join(shown.split())


def test_what_was_exported_can_be_imported(browser: Browser, tmp_path: Path) -> None:
    """By the page, or by the program: into a browser that does not know it, and beside itself where it does."""
    browser.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.ask(QUESTION)
    figures = browser.text(".figures").split(" · ")[:2]
    browser.press('header [data-do="toggle-panel"]')
    browser.press('[data-do="export"]')
    file = browser.until(lambda: next(tmp_path.glob("llmrun-*.json"), None))
    browser.press('#conversations li [data-do="remove"]')
    browser.until(lambda: browser.seen("#welcome"))
    for n in (1, 2):
        browser.run("return document.querySelector('#import')").send_keys(str(file))
        browser.until(lambda n=n: browser.texts("#conversations .open span") == [QUESTION] * n)  # type: ignore[misc]
    assert browser.text(".answered > .text") == ANSWER
    assert browser.text(".figures").split(" · ") == figures
    assert not browser.seen(".note")
    assert browser.ask("hi")


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1, "turns": [{"role": "system", "content": "x"}]}'])
def test_a_file_that_is_no_conversation_is_refused(browser: Browser, tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    browser.run("return document.querySelector('#import')").send_keys(str(file))
    assert browser.see(".notice").text.startswith("other.json was not read: ")
    assert browser.texts("#conversations .open") == []


def test_a_browser_that_is_full_says_so_and_goes_on(browser: Browser) -> None:
    browser.run(
        """IDBObjectStore.prototype.put = () => { throw new DOMException("no room", "QuotaExceededError"); };"""
    )
    assert browser.ask(QUESTION) == ANSWER
    assert "no room left" in browser.see(".notice").text


def test_a_browser_that_keeps_nothing_says_so_and_works(opened: Browser, server: Server) -> None:
    script = opened.cdp(
        "Page.addScriptToEvaluateOnNewDocument", source="indexedDB.open = () => { throw new Error(); };"
    )
    try:
        opened.visit(server.url + "/")
        assert "keeps nothing" in opened.see("#unkept").text
        assert opened.ask(QUESTION)
        assert opened.texts("#conversations .open span") == [QUESTION]
    finally:
        opened.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
