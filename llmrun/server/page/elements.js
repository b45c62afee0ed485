// Markdown's blocks as elements of the page. Text only ever becomes text nodes: nothing that a model writes is markup.

import { element } from "./dom.js";
import { parseInline } from "./inline.js";

const TAGS = { strong: "strong", em: "em", strike: "s" };

/** Return the element of a block; unfinished: its text is still being written. */
export function blockElement(block, unfinished = false) {
  const inline = (text) => parseInline(text, { unfinished }).map(inlineNode);
  switch (block.type) {
    case "heading":
      // the page's own headings come first: a model's are below the one of its answer
      return element(`h${Math.min(block.level + 2, 6)}`, { dir: "auto", class: `level-${block.level}` }, ...inline(block.text));
    case "paragraph":
      return element("p", { dir: "auto" }, ...inline(block.text));
    case "code":
      return codeElement(block);
    case "quote":
      return element("blockquote", {}, ...blockElements(block.blocks, unfinished));
    case "list":
      return listElement(block, unfinished);
    case "table":
      return tableElement(block, inline);
    case "rule":
      return element("hr");
  }
  throw new TypeError(`no block: ${block.type}`);
}

/** Return the elements of blocks, of which the last may be unfinished. */
export function blockElements(blocks, unfinished = false) {
  return blocks.map((block, i) => blockElement(block, unfinished && i === blocks.length - 1));
}

function inlineNode(node) {
  if (typeof node === "string") return document.createTextNode(node);
  switch (node.type) {
    case "code":
      return element("code", {}, node.text);
    case "math":
      return element("code", { class: "math" }, node.text);
    case "break":
      return element("br");
    case "link": {
      const to = { href: node.href, target: "_blank", rel: "noopener noreferrer nofollow", title: node.href };
      return element("a", to, ...node.children.map(inlineNode));
    }
  }
  return element(TAGS[node.type], {}, ...node.children.map(inlineNode));
}

function codeElement(block) {
  const head = element(
    "div",
    { class: "code-head" },
    element("span", {}, block.language || "text"),
    element("button", { type: "button", class: "plain small", "data-do": "copy-code" }, "Copy"),
  );
  // what is wider than the page scrolls, and who has no mouse must reach it
  const body = element("pre", { tabindex: "0", "aria-label": "code" }, element("code", { dir: "ltr" }, block.text));
  return element("div", { class: "code" }, head, body);
}

function listElement(block, unfinished) {
  const ordered = block.start !== null;
  const attributes = ordered && block.start !== 1 ? { start: String(block.start) } : {};
  const items = block.items.map((item, i) => {
    const open = unfinished && i === block.items.length - 1;
    const content = item.blocks.flatMap((inner, j) => {
      const made = blockElement(inner, open && j === item.blocks.length - 1);
      return block.tight && inner.type === "paragraph" ? [...made.childNodes] : [made];
    });
    if (item.checked === null) return element("li", { dir: "auto" }, ...content);
    const box = element("input", { type: "checkbox", disabled: "", "aria-label": item.checked ? "done" : "to do" });
    box.toggleAttribute("checked", item.checked);
    return element("li", { dir: "auto", class: "task" }, box, " ", ...content);
  });
  return element(ordered ? "ol" : "ul", attributes, ...items);
}

function tableElement(block, inline) {
  const row = (cells, tag) =>
    element("tr", {}, ...cells.map((cell, i) => element(tag, { dir: "auto", class: block.align[i] ?? "" }, ...inline(cell))));
  const body = block.rows.map((cells) => row(cells, "td"));
  const table = element("table", {}, element("thead", {}, row(block.head, "th")), element("tbody", {}, ...body));
  return element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "table" }, table);
}
