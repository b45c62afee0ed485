// Markdown on the page while it is being written: what stands is left alone, only the end of it is drawn anew.

import { parseBlocks } from "./blocks.js";
import { morph } from "./dom.js";
import { blockElements } from "./elements.js";

const LAST_LINE = /(?:^|\n)[^\n]*$/;
const ONLY_MARKS = /^[\s\-=#*+>`|:~_.)\d[\]]*$/; // a line that could yet become anything
const OPEN_MARKS = /[*_~`[!\\]+$/;

/** A text in Markdown within an element, that grows. */
export class MarkdownView {
  #root;
  #source = "";
  #settled = 0; // characters that no further text can draw differently
  #standing = 0; // elements of those

  constructor(root) {
    this.#root = root;
  }

  /** Show a text; unfinished: more of it is to come, so its end is shown when it is clear what it is. */
  show(text, unfinished = false) {
    if (!text.startsWith(this.#source.slice(0, this.#settled))) {
      this.#settled = 0;
      this.#standing = 0;
    }
    this.#source = text;
    const open = text.slice(this.#settled);
    const blocks = parseBlocks(unfinished ? clearPart(open) : open);
    this.#draw(blockElements(blocks, unfinished));
    if (unfinished) this.#settle(open, blocks);
  }

  #draw(elements) {
    const present = [...this.#root.childNodes].slice(this.#standing);
    elements.forEach((made, i) => (i < present.length ? morph(present[i], made) : this.#root.append(made)));
    present.slice(elements.length).forEach((rest) => rest.remove());
  }

  /** All but the last two blocks stand: the last line may become part of the one before it. */
  #settle(open, blocks) {
    const done = blocks.length - 2;
    if (done <= 0) return;
    this.#settled += lineStart(open, blocks[done].at);
    this.#standing += done;
  }
}

function clearPart(text) {
  const last = LAST_LINE.exec(text)[0].replace("\n", "");
  const clear = ONLY_MARKS.test(last) ? text.slice(0, text.length - last.length) : text;
  return clear.replace(OPEN_MARKS, "");
}

function lineStart(text, line) {
  let at = 0;
  for (; line > 0; line -= 1) at = text.indexOf("\n", at) + 1;
  return at;
}
