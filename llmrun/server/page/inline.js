// Markdown within a line: text to a tree of plain values. Pure.
//
// A node is a string, or one of {type: "strong" | "em" | "strike", children}, {type: "code" | "math", text},
// {type: "link", href, children}, {type: "break"}. Emphasis is as in CommonMark; what is no markup stays as it is
// written: HTML, entities, and links to anything but the web and mail. Time is linear in the length of the text.

const ESCAPABLE = /[!-/:-@[-`{-~]/;
const BLANK = /^\s?$/u;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const MAX_FRAMES = 32; // emphasis that is open at once; deeper is written by nobody who means it
const MAX_RUN = 6; // delimiters side by side
const MAX_FORMULA = 1000; // characters

const DESTINATION = /\(\s*(?:<([^<>\n]*)>|((?:[^\s()\\<]|\\.|\([^\s()]*\))*))(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?\s*\)/y;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
const BARE_LINK = /https?:\/\/[^\s<>"`*[\]\\|]+/y;

/** Return the address that a link may lead to, or null: only the web and mail are left to. */
export function safeAddress(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** Return the nodes of a text. unfinished: more of it is still to come, so what is open ends where the text does. */
export function parseInline(text, { unfinished = false, links = true } = {}) {
  const output = new Emphasis();
  const brackets = links ? matchBrackets(text) : null;
  const runs = backtickRuns(text);
  let at = 0;
  while (at < text.length) {
    const found = special(text, at, { brackets, runs, unfinished, links });
    if (found === null) {
      output.text(text[at]);
      at += 1;
    } else {
      found.put(output);
      at = found.end;
    }
  }
  return output.end(unfinished);
}

function special(text, at, context) {
  switch (text[at]) {
    case "\\":
      return escaped(text, at);
    case "`":
      return code(text, at, context);
    case "$":
      return math(text, at, "$$", "$$");
    case "*":
    case "_":
    case "~":
      return delimiters(text, at);
    case "!":
      return text[at + 1] === "[" ? link(text, at, at + 1, context) : null;
    case "[":
      return link(text, at, at, context);
    case "<":
      return context.links ? address(text, at, AUTOLINK, 1) : null;
    case "h":
      return context.links && !/[\p{L}\p{N}]/u.test(text[at - 1] ?? "") ? bareAddress(text, at) : null;
    case " ":
    case "\n":
      return lineBreak(text, at);
    default:
      return null;
  }
}

const node = (value, end) => ({ end, put: (output) => output.node(value) });
const literal = (value, end) => ({ end, put: (output) => output.text(value) });

function escaped(text, at) {
  const next = text[at + 1] ?? "";
  if (next === "\n") return node({ type: "break" }, at + 2);
  if (next === "(" || next === "[") {
    const formula = math(text, at, `\\${next}`, next === "(" ? "\\)" : "\\]");
    if (formula) return formula;
  }
  return ESCAPABLE.test(next) ? literal(next, at + 2) : null;
}

/** A formula, as it is written: within it stars and underscores mean something else. */
function math(text, at, opening, closing) {
  if (!text.startsWith(opening, at)) return null;
  const near = text.slice(at, at + MAX_FORMULA);
  const end = near.indexOf(closing, opening.length) + closing.length;
  return end > opening.length ? node({ type: "math", text: near.slice(0, end) }, at + end) : null;
}

function backtickRuns(text) {
  const byLength = new Map();
  for (const run of text.matchAll(/`+/g)) {
    const places = byLength.get(run[0].length) ?? [];
    places.push(run.index);
    byLength.set(run[0].length, places);
  }
  for (const places of byLength.values()) places.reverse(); // the next one is the last
  return byLength;
}

function code(text, at, { runs, unfinished }) {
  let length = 1;
  while (text[at + length] === "`") length += 1;
  const places = runs.get(length) ?? [];
  while (places.length && places.at(-1) <= at) places.pop();
  const end = places.at(-1);
  if (end === undefined && !unfinished) return literal("`".repeat(length), at + length);
  const inner = text.slice(at + length, end).replace(/\n/g, " ");
  const padded = inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
  return node({ type: "code", text: padded ? inner.slice(1, -1) : inner }, (end ?? text.length) + length);
}

function delimiters(text, at) {
  const char = text[at];
  let length = 1;
  while (text[at + length] === char) length += 1;
  const end = at + length;
  if (length > MAX_RUN || (char === "~" && length !== 2)) return literal(char.repeat(length), end);
  const before = text[at - 1] ?? "";
  const after = text[end] ?? "";
  const leaning = (from, to) =>
    !BLANK.test(to) && (!PUNCTUATION.test(to) || BLANK.test(from) || PUNCTUATION.test(from));
  const left = leaning(before, after);
  const right = leaning(after, before);
  const word = char === "_";
  const opens = left && (!word || !right || PUNCTUATION.test(before));
  const closes = right && (!word || !left || PUNCTUATION.test(after));
  return { end, put: (output) => output.delimiters({ char, length, opens, closes }) };
}

/** Return which "[" is closed by which "]". */
function matchBrackets(text) {
  const matches = new Map();
  const open = [];
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "[") open.push(at);
    else if (text[at] === "]" && open.length) matches.set(open.pop(), at);
  }
  return matches;
}

function link(text, at, bracket, { brackets, unfinished, links }) {
  const close = links ? brackets.get(bracket) : undefined;
  if (close === undefined || text[close + 1] !== "(") return null;
  const label = text.slice(bracket + 1, close);
  DESTINATION.lastIndex = close + 1;
  const found = DESTINATION.exec(text);
  if (found === null) {
    const rest = text.slice(close + 1);
    if (!unfinished || rest.length > 2000 || /[\s)]/.test(rest)) return null;
    return { end: text.length, put: (output) => parseInline(label, { links: false }).forEach((n) => output.node(n)) };
  }
  const href = safeAddress((found[1] ?? found[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1"));
  if (href === null) return literal(text.slice(at, DESTINATION.lastIndex), DESTINATION.lastIndex);
  const children = label.trim() ? parseInline(label, { links: false }) : [href];
  return node({ type: "link", href, children }, DESTINATION.lastIndex);
}

function address(text, at, pattern, group) {
  pattern.lastIndex = at;
  const found = pattern.exec(text);
  const href = found && safeAddress(found[group]);
  return href ? node({ type: "link", href, children: [found[group]] }, pattern.lastIndex) : null;
}

function bareAddress(text, at) {
  BARE_LINK.lastIndex = at;
  let found = BARE_LINK.exec(text)?.[0] ?? "";
  while (/[.,;:!?'_~*)]$/.test(found)) {
    const balanced = found.endsWith(")") && found.split("(").length >= found.split(")").length;
    if (balanced) break;
    found = found.slice(0, -1);
  }
  const href = found && safeAddress(found);
  return href ? node({ type: "link", href, children: [found] }, at + found.length) : null;
}

/** A new line is one as the model wrote it; blanks around it are none. */
function lineBreak(text, at) {
  let end = at;
  while (text[end] === " ") end += 1;
  if (text[end] !== "\n") return end > at + 1 ? literal(text.slice(at, end), end) : null;
  end += 1;
  while (text[end] === " ") end += 1;
  return node({ type: "break" }, end);
}

/** What has been read, with emphasis that is still open as frames on a stack. */
class Emphasis {
  #frames = [{ nodes: [] }];

  text(value) {
    const nodes = this.#frames.at(-1).nodes;
    if (typeof nodes.at(-1) === "string") nodes[nodes.length - 1] += value;
    else nodes.push(value);
  }

  node(value) {
    if (typeof value === "string") this.text(value);
    else this.#frames.at(-1).nodes.push(value);
  }

  delimiters(run) {
    const left = run.closes ? this.#close(run) : run.length;
    if (left === 0) return;
    if (run.opens && this.#frames.length < MAX_FRAMES) {
      this.#frames.push({ ...run, length: left, original: run.length, nodes: [] });
    } else this.text(run.char.repeat(left));
  }

  end(unfinished) {
    while (this.#frames.length > 1) {
      const frame = this.#frames.at(-1);
      if (unfinished && frame.nodes.length) this.#wrap(frame, Math.min(frame.length, 2));
      else this.#fold();
    }
    return this.#frames[0].nodes;
  }

  #close(run) {
    let left = run.length;
    while (left > 0) {
      const index = this.#frames.findLastIndex((frame) => matches(frame, run));
      if (index < 1) break;
      while (this.#frames.length > index + 1) this.#fold();
      const frame = this.#frames[index];
      const used = Math.min(frame.length, left) >= 2 ? 2 : 1;
      left -= used;
      this.#wrap(frame, used);
    }
    return left;
  }

  /** Let the last frame's nodes be emphasized by as many of its delimiters. */
  #wrap(frame, used) {
    const type = frame.char === "~" ? "strike" : used === 2 ? "strong" : "em";
    const value = { type, children: frame.nodes };
    frame.length -= used;
    if (frame.length > 0) frame.nodes = [value];
    else {
      this.#frames.pop();
      this.node(value);
    }
  }

  /** Let the last frame's delimiters be the text that they are written as. */
  #fold() {
    const frame = this.#frames.pop();
    this.text(frame.char.repeat(frame.length));
    frame.nodes.forEach((value) => this.node(value));
  }
}

/** CommonMark's rules 9 and 10: where one of two both opens and closes, lengths that add up to 3 do not match. */
function matches(frame, run) {
  if (frame.char !== run.char) return false;
  const both = frame.closes || run.opens;
  return !both || (frame.original + run.length) % 3 !== 0 || (frame.original % 3 === 0 && run.length % 3 === 0);
}
