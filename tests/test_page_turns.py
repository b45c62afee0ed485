"""Questions and their answers on the page: those that failed, and those that people change their mind about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser import Browser, browsing, needs_browser
from tests.serving import Server, serving

pytestmark = needs_browser

QUESTION = "What is a KV cache?"
ANSWER = "The KV cache keeps the keys and values of every token read so far, so that they are not computed again."
TOO_LONG = "word " * 3000
# What the page sends is kept beside it, as it goes to the server.
LISTEN = """const real = window.fetch; window.asked = [];
window.fetch = (to, how) => {
  if (how?.body) window.asked.push(JSON.parse(how.body).messages.map((message) => message.content));
  return real(to, how);
};"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def browser(opened: Browser, server: Server) -> Browser:
    opened.come_first(server.url + "/")
    opened.run(LISTEN)
    return opened


def asked(browser: Browser) -> Any:
    """What was sent last."""
    return browser.run("return window.asked.at(-1)")


def ask_too_much(browser: Browser) -> None:
    browser.run("document.querySelector('#question').value = arguments[0]", TOO_LONG)
    browser.ask("and so on")
    assert browser.see(".answered .error").text.startswith("error: ")


def questions(browser: Browser) -> list[str]:
    return [text[:20] for text in browser.texts(".asked > .text")]


def test_a_question_that_was_refused_is_not_sent_again(browser: Browser) -> None:
    browser.ask("hi")
    ask_too_much(browser)
    browser.ask(QUESTION)
    assert [len(text) < 1000 for text in asked(browser)] == [True, True, True]
    assert asked(browser)[::2] == ["hi", QUESTION]
    assert browser.texts(".asked.unanswered > .text") == [TOO_LONG + "and so on"]  # and it stays in sight
    assert "not sent with later questions" in browser.see(".left-out").text
    browser.reload()
    assert len(browser.texts(".asked.unanswered")) == 1


def test_a_question_that_was_refused_can_be_removed(browser: Browser) -> None:
    ask_too_much(browser)
    browser.ask(QUESTION)
    browser.press('.left-out [data-do="remove-turn"]')
    browser.until(lambda: questions(browser) == [QUESTION])
    assert not browser.seen(".answered .error")
    browser.press(".notice button")
    browser.until(lambda: len(questions(browser)) == 2)
    assert browser.seen(".left-out")


def test_a_question_that_was_refused_can_be_edited(browser: Browser) -> None:
    ask_too_much(browser)
    browser.press('.left-out [data-do="edit"]')
    box = browser.see(".editor textarea")
    browser.run("arguments[0].value = ''", box)
    box.send_keys(QUESTION, Keys.ENTER)
    browser.until(lambda: browser.text(".answered > .text") == ANSWER)
    browser.answered()
    assert asked(browser) == [QUESTION]
    assert not browser.seen(".left-out")


def test_what_failed_is_tried_again_at_the_end_and_costs_nothing_that_was_said(browser: Browser) -> None:
    browser.run("window.fetch = () => Promise.reject(new TypeError('away'))")
    browser.ask("hi")
    assert "does not answer" in browser.text(".answered .error")
    assert browser.seen(".left-out")
    browser.reload()
    browser.run(LISTEN)
    assert browser.ask(QUESTION) == ANSWER
    browser.press('.left-out [data-do="again"]')
    browser.until(lambda: questions(browser) == [QUESTION, "hi"])
    browser.answered()
    assert asked(browser) == [QUESTION, ANSWER, "hi"]
    assert not browser.seen(".left-out")


def test_every_question_can_be_edited_and_what_follows_is_dropped(browser: Browser) -> None:
    answers = [browser.ask(text) for text in ("hi", "What is a token?", QUESTION)]
    first = 'article:first-child [data-do="edit"]'
    browser.run("document.querySelector(arguments[0]).click()", f"#thread {first}")
    box = browser.see(".editor textarea")
    assert box.get_attribute("value") == "hi"
    box.send_keys(" there", Keys.ENTER)
    browser.until(lambda: questions(browser) == ["hi there"])
    browser.answered()
    assert asked(browser) == ["hi there"]
    assert "2 questions" in browser.text(".notice")
    browser.press(".notice button")
    browser.until(lambda: questions(browser) == ["hi", "What is a token?", QUESTION])
    assert browser.texts(".answered > .text") == answers


def test_a_question_can_be_removed_with_its_answer(browser: Browser) -> None:
    browser.ask("hi")
    answer = browser.ask(QUESTION)
    browser.run("document.querySelector('#thread .asked .tools [data-do=remove-turn]').click()")
    browser.until(lambda: questions(browser) == [QUESTION])
    assert browser.texts(".answered > .text") == [answer]
    browser.ask("hi")
    assert asked(browser) == [QUESTION, answer, "hi"]


def test_who_removes_all_that_was_said_has_no_conversation_left_and_can_take_it_back(browser: Browser) -> None:
    browser.ask(QUESTION)
    browser.run("document.querySelector('#thread .asked .tools [data-do=remove-turn]').click()")
    browser.until(lambda: browser.seen("#welcome") and browser.texts("#conversations .open") == [])
    browser.press(".notice button")
    browser.until(lambda: questions(browser) == [QUESTION])
    assert browser.texts("#conversations .open span") == [QUESTION]
