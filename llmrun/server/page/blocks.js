// Markdown line by line: text to blocks as plain values. Pure.
//
// A block is one of {type: "heading", level, text}, {type: "paragraph", text}, {type: "code", language, text},
// {type: "quote", blocks}, {type: "list", start, tight, items: [{checked, blocks}]}, {type: "table", align, head, rows},
// {type: "rule"}; each has `at`, the line that it begins with. What a block says is left to inline.js.

const MAX_DEPTH = 12; // quotes and lists in one another
const MAX_CELLS = 64; // of a row

const FENCE = /^( *)(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}>[ \t]?/;
const MARKER = /^( *)([-*+]|\d{1,9}[.)])(?=[ \t]|$)/;
const UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/;
const TASK = /^\[([ xX])\][ \t]+/;

/** Return the blocks of a text. */
export function parseBlocks(text) {
  return parseLines(text.split("\n").map((line) => line.replace(/\r$/, "").replace(/\t/g, "    ")), 0);
}

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;

function parseLines(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const { end, ...block } = readBlock(lines, at, depth);
    blocks.push({ ...block, at });
    at = end;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  return (
    readFence(lines, at) ??
    readHeading(line, at) ??
    (RULE.test(line) ? { type: "rule", end: at + 1 } : null) ??
    (depth < MAX_DEPTH ? (readQuote(lines, at, depth) ?? readList(lines, at, depth)) : null) ??
    readTable(lines, at) ??
    readIndented(lines, at) ??
    readParagraph(lines, at, depth)
  );
}

function fenceOf(line) {
  const found = FENCE.exec(line);
  return found && !(found[2][0] === "`" && found[3].includes("`")) ? found : null;
}

function readFence(lines, at) {
  const fence = fenceOf(lines[at]);
  if (!fence) return null;
  const [, indent, marks, info] = fence;
  let end = at + 1;
  const closes = (line) => {
    const text = line.trim();
    return text.length >= marks.length && text === marks[0].repeat(text.length);
  };
  while (end < lines.length && !closes(lines[end])) end += 1;
  const body = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent.length, indentOf(line))));
  const language = info.trim().split(/\s/, 1)[0];
  return { type: "code", language, text: body.join("\n"), end: Math.min(end + 1, lines.length) };
}

function readHeading(line, at) {
  const found = HEADING.exec(line);
  if (!found) return null;
  let text = line.slice(found[0].length).trim();
  const closing = text.length - text.replace(/#+$/, "").length;
  if (closing && (closing === text.length || text[text.length - closing - 1] === " ")) text = text.slice(0, -closing);
  return { type: "heading", level: found[1].length, text: text.trim(), end: at + 1 };
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  if (end === at) return null;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { type: "quote", blocks: parseLines(inner, depth + 1), end };
}

function markerOf(line) {
  const found = !RULE.test(line) && MARKER.exec(line);
  if (!found) return null;
  const [all, indent, mark] = found;
  const rest = line.slice(all.length);
  const gap = indentOf(rest) > 4 || isBlank(rest) ? 1 : indentOf(rest);
  const ordered = /\d/.test(mark);
  return {
    indent: indent.length,
    content: all.length + gap,
    kind: mark.at(-1),
    start: ordered ? parseInt(mark, 10) : null,
    empty: isBlank(rest),
  };
}

function readList(lines, at, depth) {
  const first = markerOf(lines[at]);
  if (!first) return null;
  const items = [];
  let loose = false;
  let next = at;
  for (;;) {
    const marker = next < lines.length ? markerOf(lines[next]) : null;
    if (!marker || marker.kind !== first.kind || marker.indent > first.indent + 3) break;
    const { inner, end, blankAfter } = readItem(lines, next, marker);
    const item = parseItem(inner, depth);
    items.push(item);
    loose ||= item.loose || (blankAfter && sameList(lines[end], first));
    next = end;
  }
  return { type: "list", start: first.start, tight: !loose, items, end: next };
}

function sameList(line, first) {
  const marker = line === undefined ? null : markerOf(line);
  return marker !== null && marker.kind === first.kind;
}

/** Return the lines of an item without its marker, and where the next block begins. */
function readItem(lines, at, marker) {
  const inner = [lines[at].slice(marker.content)];
  let end = at + 1;
  let blanks = 0;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    if (isBlank(line)) {
      blanks += 1;
      continue;
    }
    const below = markerOf(line);
    const belongs = indentOf(line) >= marker.content || (below && below.indent >= marker.indent + 2);
    const goesOn = !blanks && !below && !startsBlock(line) && !isBlank(inner.at(-1));
    if (!belongs && !goesOn) break;
    for (; blanks; blanks -= 1) inner.push("");
    inner.push(line.slice(Math.min(marker.content, indentOf(line))));
  }
  return { inner, end, blankAfter: blanks > 0 };
}

function parseItem(inner, depth) {
  const task = TASK.exec(inner[0]);
  const lines = task ? [inner[0].slice(task[0].length), ...inner.slice(1)] : inner;
  const blocks = parseLines(lines, depth + 1);
  const loose = blocks.some((block, i) => i > 0 && block.type === "paragraph" && isBlank(lines[block.at - 1] ?? ""));
  return { checked: task ? task[1] !== " " : null, blocks, loose };
}

/** Return a row's cells, or null for what is none. */
function cellsOf(line) {
  if (!line.includes("|")) return null;
  const cells = [""];
  const text = line.trim();
  for (let i = text.startsWith("|") ? 1 : 0; i < text.length; i += 1) {
    if (text[i] === "\\" && text[i + 1] === "|") {
      cells[cells.length - 1] += "|";
      i += 1;
    } else if (text[i] === "|") cells.push("");
    else cells[cells.length - 1] += text[i];
  }
  if (cells.length > 1 && isBlank(cells.at(-1)) && text.endsWith("|")) cells.pop();
  return cells.length <= MAX_CELLS ? cells.map((cell) => cell.trim()) : null;
}

const ALIGNMENTS = { "::": "center", ":": "left", "-:": "right" };

function tableHead(lines, at) {
  const below = lines[at + 1];
  if (below === undefined || !below.includes("-") || /[^-:| ]/.test(below)) return null;
  const marks = cellsOf(below);
  const head = cellsOf(lines[at]);
  if (!head || !marks || head.length !== marks.length || !marks.every((mark) => /^:?-+:?$/.test(mark))) return null;
  const align = marks.map((mark) => {
    const right = mark.endsWith(":");
    return ALIGNMENTS[mark.startsWith(":") ? (right ? "::" : ":") : right ? "-:" : ""] ?? null;
  });
  return { head, align };
}

function readTable(lines, at) {
  const top = tableHead(lines, at);
  if (!top) return null;
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && !isBlank(lines[end]) && !startsBlock(lines[end]); end += 1) {
    const cells = cellsOf(lines[end]);
    if (!cells) break;
    rows.push(top.head.map((_, i) => cells[i] ?? ""));
  }
  return { type: "table", ...top, rows, end };
}

function readIndented(lines, at) {
  if (indentOf(lines[at]) < 4) return null;
  let end = at;
  while (end < lines.length && (indentOf(lines[end]) >= 4 || isBlank(lines[end]))) end += 1;
  while (isBlank(lines[end - 1])) end -= 1;
  return { type: "code", language: "", text: lines.slice(at, end).map((line) => line.slice(4)).join("\n"), end };
}

function startsBlock(line) {
  if (fenceOf(line) || HEADING.test(line) || QUOTE.test(line) || RULE.test(line)) return true;
  const marker = markerOf(line);
  return marker !== null && !marker.empty && (marker.start === null || marker.start === 1);
}

function readParagraph(lines, at, depth) {
  const words = [lines[at]];
  let end = at + 1;
  for (; end < lines.length && !isBlank(lines[end]); end += 1) {
    const underline = UNDERLINE.exec(lines[end]);
    if (underline) return heading(words, underline[1][0] === "=" ? 1 : 2, end + 1);
    if ((depth < MAX_DEPTH && startsBlock(lines[end])) || tableHead(lines, end)) break;
    words.push(lines[end]);
  }
  return { type: "paragraph", text: words.map((line) => line.trimStart()).join("\n").trimEnd(), end };
}

const heading = (words, level, end) => ({ type: "heading", level, text: words.join("\n").trim(), end });
