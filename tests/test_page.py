"""The page at /, in a real browser, from the real server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from llmrun.units import format_bytes
from tests.browser import Browser, browsing, needs_browser, write_endless
from tests.serving import Server, serving
from tests.thinking_models import QWEN3, write_script

QUESTION = "What is a KV cache?"
ANSWER = "The KV cache keeps the keys and values of every token read so far, so that they are not computed again."
# Each piece is a token that the model writes; none may be the same as another.
ATTACK = (
    "<script>window.pwned = 1</script>\n\n",
    "<img src=/pwned.png onerror='window.pwned = 2'> ",
    "[press me](javascript:window.pwned=3) ",
    "[or me](https://x.org/' onclick='window.pwned=4) ",
    "![seen](https://x.org/pwned.png)\n\n",
    "<iframe srcdoc='<script>parent.pwned = 5</script>'></iframe>\n\n",
    "<style>*{display:none}</style> ",
    "<svg onload=window.pwned=6> ",
    "```html\n<b onmouseover=window.pwned=7>\n```\n",
    "| " + "x" * 200 + " | b |\n|---|---|\n| " + "y" * 200 + " | c |\n\n",
    "w" * 300,
)
THOUGHT = ("<think>", "Let me *see*.", "</think>", "It is ", "**four**.")


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless(tmp_path_factory.mktemp("models") / "endless.gguf")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, endless: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("scripts")
    attack = write_script(folder / "attack.gguf", QWEN3, ATTACK)
    thinking = write_script(folder / "thinking.gguf", QWEN3, THOUGHT, controls=("<think>", "</think>"))
    files = [str(path) for path in (endless, attack, thinking)]
    with serving(tmp_path_factory.mktemp("home"), "guide", *files, "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def browser(opened: Browser, server: Server) -> Browser:
    opened.come_first(server.url + "/")
    return opened


# ---- a conversation

GROWTH = """
window.lengths = [];
const length = () => document.querySelector(".answered.busy > .text")?.textContent.length ?? 0;
new MutationObserver(() => window.lengths.push(length())).observe(
  document.querySelector("#thread"), { childList: true, subtree: true, characterData: true });
"""


@needs_browser
def test_a_question_is_answered(browser: Browser) -> None:
    assert browser.ask(QUESTION) == ANSWER
    assert "24 tokens · " in browser.text(".figures")
    assert " tok/s" in browser.text(".figures")
    assert browser.said() == []


@needs_browser
def test_who_listens_hears_that_it_is_answered_and_not_each_token(browser: Browser) -> None:
    browser.run(
        """window.heard = [];
        new MutationObserver(() => window.heard.push(document.querySelector("#status").textContent))
          .observe(document.querySelector("#status"), { childList: true, characterData: true, subtree: true });"""
    )
    browser.ask(QUESTION)
    browser.until(lambda: browser.text("#status") == "guide has answered")
    assert browser.run("return window.heard") == ["guide is answering", "guide has answered"]
    live = browser.run("return document.querySelector('#thread').getAttribute('aria-live')")
    assert live == "off"


@needs_browser
@pytest.mark.parametrize("by", ["button", "key"])
def test_an_answer_can_be_stopped_and_the_server_is_free(browser: Browser, server: Server, by: str) -> None:
    browser.choose("#model", "endless")
    browser.run(GROWTH)
    browser.send("go on")
    browser.until(lambda: len(set(browser.run("return window.lengths"))) > 3)
    lengths = browser.run("return window.lengths")  # it grew before it was complete, and never shrank
    assert lengths == sorted(lengths)
    if by == "button":
        browser.press("#stop")
    else:
        browser.see("#question").send_keys(Keys.ESCAPE)
    browser.answered()
    assert browser.text(".note") == "Stopped."
    assert browser.seen("#send")
    kept = browser.text(".answered > .text")
    messages = [{"role": "user", "content": "go"}]
    status, answer = server.ask("/v1/chat/completions", {"model": "endless", "messages": messages, "max_tokens": 3})
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 3
    assert browser.text(".answered > .text") == kept


@needs_browser
def test_nothing_that_a_model_writes_is_run_or_fetched(browser: Browser) -> None:
    browser.choose("#model", "attack")
    text = browser.ask("attack")
    assert "<script>window.pwned = 1</script>" in text
    assert "<img src=/pwned.png onerror='window.pwned = 2'>" in text
    assert "[press me](javascript:window.pwned=3)" in text
    assert "w" * 300 in text
    made = browser.run(
        "return [...new Set([...document.querySelectorAll('.answered .text *')].map((e) => e.localName))].sort()"
    )
    assert set(made) <= {
        "a",
        "br",
        "button",
        "code",
        "div",
        "p",
        "pre",
        "span",
        "table",
        "tbody",
        "td",
        "th",
        "thead",
        "tr",
    }
    for link in browser.run(
        "return [...document.querySelectorAll('.answered .text a')].map((e) => e.getAttributeNames())"
    ):
        assert sorted(link) == ["href", "rel", "target", "title"]
    fetched = browser.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert not [name for name in fetched if "pwned" in name or "x.org" in name]
    assert browser.run("return window.pwned ?? null") is None
    assert browser.said() == []  # the policy had nothing to stop


@needs_browser
def test_thoughts_are_folded_and_told_apart(browser: Browser) -> None:
    browser.choose("#model", "thinking")
    assert browser.ask("two and two") == "It is four."
    assert not browser.run("return document.querySelector('.thoughts').open")
    assert browser.text(".thoughts summary").startswith("Thought")
    browser.press(".thoughts summary")
    assert browser.see(".thoughts em").text == "see"


@needs_browser
def test_nothing_moves_while_an_answer_comes(browser: Browser) -> None:
    browser.ask("hi")
    browser.run(
        """window.shift = 0;
        new PerformanceObserver((list) => list.getEntries().forEach((entry) => (window.shift += entry.value)))
          .observe({ type: "layout-shift" });"""
    )
    browser.ask(QUESTION)
    browser.ask("What is quantization?")
    browser.run_async("await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));")
    assert browser.run("return window.shift") < 0.01
    at = browser.run(
        "const s = document.querySelector('#scroll'); return s.scrollHeight - s.scrollTop - s.clientHeight"
    )
    assert at < 2


@needs_browser
def test_who_scrolls_up_stays_there(browser: Browser) -> None:
    browser.choose("#model", "endless")
    browser.send("go on")
    browser.until(
        lambda: browser.run("const s = document.querySelector('#scroll'); return s.scrollHeight > 3 * s.clientHeight")
    )
    browser.run("document.querySelector('#scroll').scrollTop = 100")
    browser.see("#to-end")
    before = len(browser.text(".answered > .text"))
    browser.until(lambda: len(browser.text(".answered > .text")) > before + 500)
    assert browser.run("return document.querySelector('#scroll').scrollTop") == 100
    browser.press("#to-end")
    browser.until(lambda: not browser.seen("#to-end"))
    browser.press("#stop")
    browser.answered()


@needs_browser
def test_the_last_question_can_be_asked_again_and_in_other_words(browser: Browser) -> None:
    first = browser.ask("hi")
    browser.press('[data-do="again"]')
    browser.answered()
    assert browser.text(".answered > .text") == first
    browser.press('[data-do="edit"]')
    box = browser.see(".editor textarea")
    assert box.get_attribute("value") == "hi"
    box.clear()
    box.send_keys(QUESTION, Keys.ENTER)
    browser.until(lambda: browser.text(".answered > .text") == ANSWER)
    browser.answered()
    assert browser.text("#thread .asked .text") == QUESTION
    assert browser.run("return document.querySelectorAll('.message').length") == 2


@needs_browser
def test_settings_reach_the_server(browser: Browser) -> None:
    browser.press('header [data-do="toggle-panel"]')
    browser.type("Answer with one word.", "#system")
    browser.type("4", "#max-tokens")
    browser.run(
        """const real = window.fetch; window.asked = [];
        window.fetch = (to, how) => {
          if (how?.body) window.asked.push(JSON.parse(how.body));
          return real(to, how);
        };"""
    )
    browser.ask(QUESTION)
    assert browser.text(".figures").startswith("4 tokens")
    assert browser.text(".note").startswith("The answer was cut off")
    asked = browser.run("return window.asked")
    assert [(body["temperature"], body["max_tokens"]) for body in asked] == [(0, 4)]
    assert asked[0]["messages"] == [
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": QUESTION},
    ]


# ---- how it looks


@needs_browser
def test_the_plan_is_a_picture_of_memory(browser: Browser, server: Server) -> None:
    """Its parts are what the plan says, and as wide as they are large."""
    plan = next(one["plan"] for one in server.ask("/v1/plan")[1]["models"] if one["name"] == "guide")
    used = plan["pools"][0]["used"]
    spoken = browser.see("#welcome-memory [role=img]").get_attribute("aria-label") or ""
    assert spoken.startswith(f"RAM: weights {format_bytes(used['weights'])}, KV cache ")
    assert "kept free" in spoken
    widths = browser.run(
        """return Object.fromEntries([...document.querySelectorAll("#welcome-memory .bar:last-of-type rect")]
        .map((e) => [e.classList[1], e.getBoundingClientRect().width]));"""
    )
    parts = {name: used[name] for name in ("weights", "kv_cache", "compute", "overhead")}
    whole = sum(widths.values())
    for name, size in parts.items():
        assert abs(widths[name] / whole - size / used["total"]) < 0.01, name
    assert f"context {plan['n_ctx']:,}" in browser.text("#welcome-memory .facts")


@needs_browser
def test_a_model_is_not_said_to_be_loaded_or_not_before_that_is_known(browser: Browser, server: Server) -> None:
    hold = """const real = window.fetch; window.told = [];
    window.fetch = async (to, how) => {
      const answer = await real(to, how);
      if (String(to).endsWith("v1/plan")) window.told.push(document.querySelector("#welcome-memory").textContent);
      return answer;
    };"""
    script = browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=hold)
    try:
        browser.visit(server.url + "/")
    finally:
        browser.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    assert browser.run("return window.told") == [""]
    assert browser.seen("#welcome-memory [role=img]")
    browser.choose("#model", "guide:F16")
    assert browser.text("#welcome-memory") == "It loads when you ask something."


@needs_browser
def test_a_phone_scrolls_in_one_direction(browser: Browser) -> None:
    browser.phone()
    browser.choose("#model", "attack")
    browser.ask("attack")
    for selector in ("html", "body", "#scroll"):
        wide, room = browser.run(
            f"const e = document.querySelector('{selector}'); return [e.scrollWidth, e.clientWidth]"
        )
        assert wide <= room, selector
    assert browser.run("return innerWidth") == 360
    browser.press('header [data-do="toggle-sidebar"]')
    assert browser.see("#sidebar").rect["width"] <= 360
    browser.press("#conversations .open")
    browser.until(lambda: not browser.seen("#sidebar"))
    small = browser.run(
        """return [...document.querySelectorAll("button, select, textarea")]
        .filter((e) => e.offsetWidth && !e.closest("[inert]"))
        .map((e) => [e.ariaLabel ?? e.id, e.offsetWidth, e.offsetHeight]).filter(([, w, h]) => w < 32 || h < 32)"""
    )
    assert small == []


# The contrast of everything with text, by WCAG 2's formulas; what is below 4.5 is returned.
CONTRAST = """
const parse = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = (rgb) => rgb.reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (e) => {
  const colour = getComputedStyle(e).backgroundColor;
  return /, 0\\)$/.test(colour) ? behind(e.parentElement) : colour;
};
const ratio = (e) => {
  const pair = [getComputedStyle(e).color, behind(e)].map((colour) => light(parse(colour)));
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
};
return [...document.querySelectorAll("p, span, h2, label, button, a, summary, code, select, textarea, b")]
  .filter((e) => e.offsetWidth && e.textContent.trim())
  .map((e) => [ratio(e), e.outerHTML.slice(0, 80)])
  .filter(([r]) => r < 4.5);
"""


@needs_browser
def test_it_is_dark_in_the_dark_and_can_be_read_in_both(browser: Browser) -> None:
    back = {}
    browser.ask(QUESTION)
    browser.press('header [data-do="toggle-panel"]')
    for scheme in ("light", "dark"):
        browser.colours(scheme)
        back[scheme] = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert browser.run(CONTRAST) == [], scheme
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 25, 28)"}


@needs_browser
def test_everything_that_can_be_used_has_a_name(browser: Browser) -> None:
    browser.ask(QUESTION)
    browser.press('header [data-do="toggle-panel"]')
    browser.cdp("Accessibility.enable")
    nodes = browser.cdp("Accessibility.getFullAXTree")["nodes"]
    usable = ("button", "textbox", "combobox", "spinbutton", "link", "DisclosureTriangle", "log", "dialog")
    found = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    assert len([role for role, _ in found if role == "button"]) > 8
    assert [role for role, name in found if role in usable and not name] == []


# ---- what goes wrong


@needs_browser
def test_what_the_server_refuses_is_shown_as_it_says_it(browser: Browser) -> None:
    browser.run("document.querySelector('#question').value = 'word '.repeat(3000)")
    browser.ask("and so on")
    error = browser.see(".answered .error").text
    assert error.startswith("error: ")
    assert "2,048" in error or "2048" in error
    assert browser.seen('[data-do="again"]')


@needs_browser
def test_a_server_that_went_away_is_said_to_be(opened: Browser, tmp_path: Path, endless: Path) -> None:
    with serving(tmp_path, str(endless), "--threads", "1") as server:
        opened.visit(server.url + "/")
        opened.forget({"temperature": 0})
        opened.visit(server.url + "/")
        opened.send("go on")
        opened.until(lambda: opened.text(".answered > .text").count("tick") > 20)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        opened.answered()
        assert "the server went away" in opened.see(".answered .error").text
        opened.send("still there?")
        opened.until(lambda: "does not answer" in opened.text(".answered .error"))
