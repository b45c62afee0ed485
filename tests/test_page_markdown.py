"""Markdown on the page: the modules that read and draw it, in the browser they are made for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import Browser, browsing, needs_browser
from tests.serving import serving

pytestmark = needs_browser

CASES = {
    "paragraphs": (
        "one\n\ntwo",
        "<p>one</p><p>two</p>",
    ),
    "a new line is one": (
        "one\ntwo",
        "<p>one<br>two</p>",
    ),
    "headings are below the answer's own": (
        "# a\n###### b #\n#c",
        '<h3 class="level-1">a</h3><h6 class="level-6">b</h6><p>#c</p>',
    ),
    "an underlined heading": (
        "a\n===\nb\n---",
        '<h3 class="level-1">a</h3><h4 class="level-2">b</h4>',
    ),
    "emphasis": (
        "*a* **b** ***c*** ~~d~~ _e_",
        "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <s>d</s> <em>e</em></p>",
    ),
    "no emphasis": (
        "2 * 3 * 4, snake_case_name, a ~ b",
        "<p>2 * 3 * 4, snake_case_name, a ~ b</p>",
    ),
    "emphasis that is not closed": (
        "**a *b",
        "<p>**a *b</p>",
    ),
    "emphasis within emphasis": (
        "**a *b* c**",
        "<p><strong>a <em>b</em> c</strong></p>",
    ),
    "code within a line": (
        "`a*b*` ``c`d`` `e",
        "<p><code>a*b*</code> <code>c`d</code> `e</p>",
    ),
    "escapes": (
        "\\*a\\* \\\\ \\q",
        "<p>*a* \\ \\q</p>",
    ),
    "formulas stay as they are": (
        "\\(a_1 * b_2 * c\\) and $$x*y*z$$",
        '<p><code class="math">\\(a_1 * b_2 * c\\)</code> and <code class="math">$$x*y*z$$</code></p>',
    ),
    "a rule": (
        "a\n\n---\n\n* * *",
        "<p>a</p><hr><hr>",
    ),
    "a quote": (
        "> a\n> > b",
        "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>",
    ),
    "a list": (
        "- a\n- b",
        "<ul><li>a</li><li>b</li></ul>",
    ),
    "a list that is not tight": (
        "- a\n\n- b",
        "<ul><li><p>a</p></li><li><p>b</p></li></ul>",
    ),
    "a list within one": (
        "1. a\n   - b\n     - c\n2. d",
        "<ol><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ol>",
    ),
    "a list that is hardly indented": (
        "1. a\n  - b\n2. c",
        "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>",
    ),
    "a list that begins elsewhere": (
        "3) a\n4) b",
        '<ol start="3"><li>a</li><li>b</li></ol>',
    ),
    "a list after a line": (
        "a:\n- b\n* c",
        "<p>a:</p><ul><li>b</li></ul><ul><li>c</li></ul>",
    ),
    "a number that begins no list": (
        "in\n1984. That",
        "<p>in<br>1984. That</p>",
    ),
    "code within a list": (
        "- a\n  ```\n  x\n    y\n  ```\n- b",
        "<ul><li>a{CODE:text:x\n  y}</li><li>b</li></ul>",
    ),
    "tasks": (
        "- [x] a\n- [ ] b",
        '<ul><li class="task">[done] a</li><li class="task">[to do] b</li></ul>',
    ),
    "code": (
        "```python\nif a < b:\n    *c*\n```\nd",
        "{CODE:python:if a &lt; b:\n    *c*}<p>d</p>",
    ),
    "code that is not closed": (
        "~~~\na\n\nb",
        "{CODE:text:a\n\nb}",
    ),
    "code with fences in it": (
        "````\n```\n````",
        "{CODE:text:```}",
    ),
    "indented code": (
        "    a\n\n    b\n\nc",
        "{CODE:text:a\n\nb}<p>c</p>",
    ),
    "a table": (
        "| a | b |\n|:-:|--:|\n| c | `d\\|e` |\n| f |",
        (
            '{TABLE:<tr><th class="center">a</th><th class="right">b</th></tr>|<tr><td class="center">c</td>'
            '<td class="right"><code>d|e</code></td></tr><tr><td class="center">f</td><td class="right"></td></tr>}'
        ),
    ),
    "a table after a line": (
        "x\na|b\n-|-\n1|2\n\ny",
        "<p>x</p>{TABLE:<tr><th>a</th><th>b</th></tr>|<tr><td>1</td><td>2</td></tr>}<p>y</p>",
    ),
    "links": (
        "[a *b*](https://x.org/y_(z)) <mailto:a@b.org>",
        "<p>{A:https://x.org/y_(z):a <em>b</em>} {A:mailto:a@b.org:mailto:a@b.org}</p>",
    ),
    "an address": (
        "see https://x.org/a_b_c. Or (https://x.org/(d)).",
        "<p>see {A:https://x.org/a_b_c:https://x.org/a_b_c}. Or ({A:https://x.org/(d):https://x.org/(d)}).</p>",
    ),
    "an emphasized address": (
        "**https://x.org/**",
        "<p><strong>{A:https://x.org/:https://x.org/}</strong></p>",
    ),
    "a picture is a link": (
        "![a](https://x.org/a.png)",
        "<p>{A:https://x.org/a.png:a}</p>",
    ),
    "a link with a title": (
        '[a](<https://x.org/> "b")',
        "<p>{A:https://x.org/:a}</p>",
    ),
    "blank": (
        "\n  \n",
        "",
    ),
    "windows' lines": (
        "a\r\n\r\n- b\r\n",
        "<p>a</p><ul><li>b</li></ul>",
    ),
    # what must not become anything
    "HTML is text": (
        "<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>",
        "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p><p>&lt;img src=x onerror=alert(1)&gt;</p>",
    ),
    "entities are text": (
        "&lt;b&gt; &#60;script>",
        "<p>&amp;lt;b&amp;gt; &amp;#60;script&gt;</p>",
    ),
    "a link to a script": (
        "[a](javascript:alert(1))",
        "<p>[a](javascript:alert(1))</p>",
    ),
    "a link to a hidden script": (
        "[a](JaVa\\script:x) [a](&#106;avascript:x) [a](\x01javascript:x)",
        "<p>[a](JaVa\\script:x) [a](&amp;#106;avascript:x) [a](\x01javascript:x)</p>",
    ),
    "a link to data": (
        "[a](data:text/html,<b>) <javascript:x> ![b](data:x)",
        "<p>[a](data:text/html,&lt;b&gt;) &lt;javascript:x&gt; ![b](data:x)</p>",
    ),
    "a link to a file of ours": (
        "[a](/v1/models) [b](//x.org) [c](file:///etc/passwd)",
        "<p>[a](/v1/models) [b](//x.org) [c](file:///etc/passwd)</p>",
    ),
    "an attribute in an address": (
        '[a](https://x.org/"onclick="alert(1))',
        "<p>{A:https://x.org/%22onclick=%22alert(1):a}</p>",
    ),
    "a language with an attribute": (
        '```"><img src=x>\na\n```',
        '{CODE:"&gt;&lt;img:a}',
    ),
    "a link in a link": (
        "[a [b](https://x.org/) c](https://y.org/)",
        "<p>{A:https://y.org/:a [b](https://x.org/) c}</p>",
    ),
}

DRAW = """
const { MarkdownView } = await import("/page/markdown.js");
const root = document.createElement("div");
new MarkdownView(root).show(given[0]);
"""
# What all of a kind have in common is left out, after it was seen to be there.
SHORTEN = """
const short = root.cloneNode(true);
const expect = (held, what) => { if (!held) throw new Error(what); };
for (const e of short.querySelectorAll("[dir]")) e.removeAttribute("dir");
for (const a of short.querySelectorAll("a")) {
  expect(a.rel === "noopener noreferrer nofollow" && a.target === "_blank" && a.title === a.href, a.outerHTML);
  a.replaceWith(`{A:${a.getAttribute("href")}:`, ...a.childNodes, "}");
}
for (const box of short.querySelectorAll("input")) {
  expect(box.disabled && box.checked === (box.getAttribute("aria-label") === "done"), box.outerHTML);
  box.replaceWith(`[${box.getAttribute("aria-label")}]`);
}
for (const code of short.querySelectorAll(".code")) {
  const [head, body] = code.children;
  expect(head.querySelector("button") && body.matches("pre[tabindex]"), code.outerHTML);
  code.replaceWith(`{CODE:${head.querySelector("span").textContent}:${body.textContent}}`);
}
for (const table of short.querySelectorAll(".table")) {
  const [head, body] = table.firstChild.children;
  table.replaceWith("{TABLE:", ...head.childNodes, "|", ...body.childNodes, "}");
}
return short.innerHTML;
"""
GROW = """
const { MarkdownView } = await import("/page/markdown.js");
const [text, step] = given;
const [grown, whole] = [document.createElement("div"), document.createElement("div")];
const view = new MarkdownView(grown);
const letters = [...text];
for (let i = 0; i <= letters.length; i += step) view.show(letters.slice(0, i).join(""), true);
view.show(text);
new MarkdownView(whole).show(text);
return [grown.innerHTML, whole.innerHTML];
"""
HOSTILE = {
    "brackets": "[" * 20000,
    "brackets that close": "[a](" * 8000,
    "links in links": "[" * 5000 + "](x)" * 5000,
    "stars": "*a **b " * 8000,
    "stars side by side": "*" * 20000 + "a" + "*" * 20000,
    "underscores": "a_" * 20000,
    "backticks": "".join("`" * n + " " for n in range(1, 250)),
    "quotes": ">" * 20000 + "a",
    "lists": "".join(" " * (2 * n) + "- a\n" for n in range(200)),
    "rows": "|" * 20000 + "\n" + "|-" * 10000,
    "tables": "a|b\n" * 10000,
    "fences": "```\n~~~\n" * 8000,
    "blanks": " " * 40000 + "a" + " " * 40000,
    "hashes": "# " * 20000,
    "slashes": "\\" * 40001,
    "addresses": "https://" * 8000,
    "angles": "<https://" * 8000,
    "formulas": "\\(" * 8000 + "$$" * 8001,
}  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as server, browsing() as opened:
        opened.visit(server.url + "/")
        yield opened


@pytest.mark.parametrize("case", CASES)
def test_markdown_becomes_what_it_says_and_nothing_else(browser: Browser, case: str) -> None:
    source, expected = CASES[case]
    drawn = browser.run_async(DRAW + SHORTEN, source)
    assert drawn.replace("&amp;", "&").replace("&quot;", '"') == expected.replace("&amp;", "&")


@pytest.mark.parametrize("step", [1, 3, 7])
def test_what_grows_ends_as_what_is_drawn_at_once(browser: Browser, step: int) -> None:
    text = "\n\n".join(source for source, _ in CASES.values())
    grown, whole = browser.run_async(GROW, text, step)
    assert grown == whole


def test_what_stands_is_left_alone_while_more_comes(browser: Browser) -> None:
    """Who has selected something in it keeps it."""
    same = browser.run_async(
        """
        const { MarkdownView } = await import("/page/markdown.js");
        const root = document.createElement("div");
        const view = new MarkdownView(root);
        view.show("one\\n\\n- two\\n- thr", true);
        const [first, item] = [root.firstChild, root.querySelector("li")];
        const words = root.querySelector("li + li").firstChild;
        view.show("one\\n\\n- two\\n- three\\n- four\\n\\nfive **six", true);
        return [root.firstChild === first, root.querySelector("li") === item, words.data, root.lastChild.innerHTML];
        """
    )
    assert same == [True, True, "three", "five <strong>six</strong>"]


def test_a_line_that_could_still_become_anything_is_not_drawn_yet(browser: Browser) -> None:
    """Else "Steps:" would be a heading until the dash below it turned out to begin a list."""
    drawn = browser.run_async(
        """
        const { MarkdownView } = await import("/page/markdown.js");
        const root = document.createElement("div");
        const view = new MarkdownView(root);
        return ["Steps:\\n-", "Steps:\\n- a **", "Steps:\\n- a **b", "Steps:\\n- a **b [c](htt"].map((text) => {
          view.show(text, true);
          return root.innerHTML.replaceAll(' dir="auto"', "");
        });
        """
    )
    assert drawn == [
        "<p>Steps:</p>",
        "<p>Steps:</p><ul><li>a</li></ul>",
        "<p>Steps:</p><ul><li>a <strong>b</strong></li></ul>",
        "<p>Steps:</p><ul><li>a <strong>b c</strong></li></ul>",
    ]


@pytest.mark.parametrize("kind", HOSTILE)
def test_text_made_to_be_slow_is_not(browser: Browser, kind: str) -> None:
    """All of these take milliseconds; what is quadratic or worse takes much longer than the limit."""
    took, tags = browser.run_async(
        """
        const { MarkdownView } = await import("/page/markdown.js");
        const root = document.createElement("div");
        const began = performance.now();
        new MarkdownView(root).show(given[0]);
        return [performance.now() - began, root.querySelectorAll("*").length];
        """,
        HOSTILE[kind],
    )
    assert took < 3000
    assert tags < 70000
