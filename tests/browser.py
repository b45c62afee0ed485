"""A real browser, without a window: Debian's Chromium, driven as WebDriver has it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from scripts.synthetic import FIRST_FILLER, TINY, write_model

if TYPE_CHECKING:
    from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
IN_CI = bool(os.environ.get("CI"))

# Where tests have to run they fail without a browser; elsewhere they say what is missing.
needs_browser = pytest.mark.skipif(
    not IN_CI and (CHROMIUM is None or DRIVER is None), reason="no Chromium and chromedriver: scripts/browser"
)
REBOUND = "rebound.example"  # a name that the browser takes for this machine's, as after DNS rebinding
PATIENCE = 30.0  # seconds; a machine that others use meanwhile is slow
_T = TypeVar("_T")


@dataclass(frozen=True)
class Browser:
    """A browser with one tab, and what people do in it."""

    driver: webdriver.Chrome

    def visit(self, address: str) -> None:
        """Open the page, and wait until it has asked the server for its models."""
        self.driver.get(address)
        self.until(lambda: self.run("return document.body?.dataset.ready === 'true'"))

    def reload(self) -> None:
        """Load the page anew, as the browser's button does: to visit the same address with a # in it would not."""
        self.driver.refresh()
        self.until(lambda: self.run("return document.body?.dataset.ready === 'true'"))

    def send_with_all(self, headers: Mapping[str, str]) -> None:
        """Send headers with every request from here on, as a browser does with a password that was typed."""
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": dict(headers)})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript as a body of a function, beside the page's policy as developers' tools do."""
        return self.driver.execute_script(script, *arguments)

    def run_async(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async function, and return what it returns; what it throws is raised."""
        whole = f"""
            const done = arguments[arguments.length - 1];
            const given = [...arguments].slice(0, -1);
            (async () => {{ {script} }})().then((value) => done([value, null]), (error) => done([null, String(error)]));
        """
        value, problem = self.driver.execute_async_script(whole, *arguments)
        assert problem is None, problem
        return value

    def see(self, selector: str) -> WebElement:
        """Return the last element that a selector finds, once it is there and shown."""

        def shown() -> WebElement | None:
            found = [e for e in self.driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()]
            return found[-1] if found else None

        return self.until(shown, selector)

    def seen(self, selector: str) -> bool:
        """Tell whether something is shown just now."""
        return any(e.is_displayed() for e in self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        """Return all text of the last element that a selector finds, "" where there is none."""
        found = self.run("return [...document.querySelectorAll(arguments[0])].at(-1)?.textContent ?? ''", selector)
        assert isinstance(found, str)
        return found

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that a selector finds."""
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector))

    def come_first(self, address: str) -> None:
        """See the page as who comes for the first time, but with a temperature of 0."""
        self.visit(address)
        self.forget({"temperature": 0})
        self.desktop()
        self.visit(address)
        self.said()

    def forget(self, settings: dict[str, Any]) -> None:
        """Let nothing be kept of what was done before, but settings."""
        self.run_async(
            """
            localStorage.setItem("llmrun.settings", JSON.stringify(given[0]));
            sessionStorage.clear();
            const open = indexedDB.open("llmrun", 1);
            await new Promise((done) => (open.onsuccess = done));
            const change = open.result.transaction("conversations", "readwrite");
            change.objectStore("conversations").clear();
            await new Promise((done) => (change.oncomplete = done));
            """,
            settings,
        )

    def choose(self, selector: str, value: str) -> None:
        """Choose from a list."""
        Select(self.see(selector)).select_by_value(value)

    def press(self, selector: str) -> None:
        """Click as a finger or a mouse does."""
        self.see(selector).click()

    def type(self, text: str, selector: str = "#question") -> None:
        """Type into a field; a new line is one of the text."""
        lines = text.split("\n")
        for i, line in enumerate(lines):
            self.see(selector).send_keys(*([Keys.SHIFT, Keys.ENTER, Keys.NULL] if i else []), line)

    def send(self, text: str) -> None:
        """Ask something; a phone's keyboard has a key for a new line there, so the button is pressed."""
        self.type(text)
        if self.run("return matchMedia('(pointer: coarse)').matches"):
            self.press("#send")
        else:
            self.see("#question").send_keys(Keys.ENTER)

    def ask(self, text: str) -> str:
        """Ask something, and return the whole answer."""
        before = len(self.driver.find_elements(By.CSS_SELECTOR, ".answered"))
        self.send(text)
        self.until(lambda: len(self.driver.find_elements(By.CSS_SELECTOR, ".answered")) > before)
        self.answered()
        return self.text(".answered > .text")

    def answered(self) -> None:
        """Wait for the end of the answer that is being written."""
        self.until(lambda: not self.driver.find_elements(By.CSS_SELECTOR, ".answered.busy"))

    def until(self, what: Callable[[], _T | None], of: str = "what was waited for") -> _T:
        """Wait until something is true, and return it."""
        try:
            found = WebDriverWait(self.driver, PATIENCE, poll_frequency=0.02).until(lambda _: what() or False)
        except TimeoutException:
            pytest.fail(f"{of} did not come; the page has: {self.text('body')[-400:]!r}")
        assert found is not False
        return found

    def cdp(self, command: str, **parameters: Any) -> Any:
        """Ask the browser's own protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def phone(self) -> None:
        """Be as narrow as a small phone, with fingers."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
        self.cdp("Emulation.setTouchEmulationEnabled", enabled=True)

    def desktop(self) -> None:
        """Be as wide as the window again, with a mouse, in light colours."""
        self.cdp("Emulation.clearDeviceMetricsOverride")
        self.cdp("Emulation.setTouchEmulationEnabled", enabled=False)
        self.colours("light")

    def colours(self, scheme: str) -> None:
        """Prefer "light" or "dark"."""
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def said(self) -> list[str]:
        """Return what the page's scripts and its policy complained of since the last time."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser of its own, new: nothing is kept from before."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or "chromium"
    for argument in ("--headless=new", "--window-size=1280,860", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    for argument in ("--no-first-run", "--disable-background-networking", "--disable-component-update"):
        options.add_argument(argument)
    options.add_argument(f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has none for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER or "chromedriver"))
    try:
        driver.set_script_timeout(PATIENCE)
        yield Browser(driver)
    finally:
        driver.quit()


def write_endless(path: Path) -> Path:
    """Write a model that, asked greedily, writes "tick300 tick411 …" for thousands of tokens."""
    shape = replace(TINY, tied=False, n_ctx_train=16384)
    words = range(FIRST_FILLER, shape.n_vocab)
    return write_model(path, shape, pieces={token: f"tick{token}Ġ" for token in words}, writes=words)


@contextmanager
def second_site(page: str) -> Iterator[str]:
    """Another site: a server of its own on another port, with one page; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
