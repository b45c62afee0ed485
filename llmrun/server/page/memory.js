// The plan as a picture of memory: each pool to scale, and below it, as under a glass, what the model takes of it.

import { drawing, element } from "./dom.js";
import { formatBytes, formatCount, formatRate } from "./units.js";

const PARTS = [
  ["weights", "weights"],
  ["kv_cache", "KV cache"],
  ["compute", "compute"],
  ["overhead", "overhead"],
];
const LEAST = 0.006; // of a bar's width, so that what is there can be seen

/** Return the picture of a plan, as `llmrun plan --json` gives it. */
export function memoryPicture(plan) {
  const facts = [`${plan.quant} of ${plan.model.name}`, `${formatBytes(plan.total)} in all`, `context ${formatCount(plan.n_ctx)}`];
  if (plan.speed?.decode) facts.push(`about ${formatRate(plan.speed.decode)}`);
  const pools = plan.pools.filter((pool) => pool.used.total > 0 || pool.id === "host").map(poolPicture);
  return element("div", { class: "memory" }, element("p", { class: "facts" }, facts.join(" · ")), ...pools);
}

/** Return what a pool holds, in the order it is drawn; all of it together is its total. */
export function poolParts(pool) {
  const model = pool.used.total;
  const other = Math.max(0, pool.total - pool.available);
  const reserve = Math.min(pool.reserve, Math.max(0, pool.available - model));
  const free = Math.max(0, pool.total - other - model - reserve);
  return [
    ["model", "this model", model],
    ["other", "other programs", other],
    ["reserve", "kept free", reserve],
    ["free", "free", free],
  ];
}

function poolPicture(pool) {
  const name = pool.id === "host" ? pool.name : `${pool.id} ${pool.name}`;
  const whole = poolParts(pool);
  const model = PARTS.map(([key, label]) => [key, label, pool.used[key]]).filter(([, , bytes]) => bytes > 0);
  const spoken = [...model, ...whole.slice(1)].map(([, label, bytes]) => `${label} ${formatBytes(bytes)}`).join(", ");
  const head = element("p", { class: "pool-head" }, element("strong", {}, name), element("span", {}, formatBytes(pool.total)));
  const figure = element("div", { class: "bars", role: "img", "aria-label": `${name}: ${spoken}` });
  figure.append(bar(whole), glass(shares(whole)[0]), bar(model));
  return element("section", { class: "pool" }, head, figure, legend(model), legend(whole.slice(1)));
}

/** Return widths that add up to 1, none too small to be seen. */
export function shares(parts) {
  const total = parts.reduce((sum, [, , bytes]) => sum + bytes, 0) || 1;
  const seen = parts.map(([, , bytes]) => (bytes > 0 ? Math.max(LEAST, bytes / total) : 0));
  const sum = seen.reduce((a, b) => a + b, 0) || 1;
  return seen.map((share) => share / sum);
}

function bar(parts) {
  const widths = shares(parts);
  let at = 0;
  const boxes = parts.map(([key], i) => {
    const box = drawing("rect", { x: at * 100, y: 0, width: widths[i] * 100, height: 10, class: `part ${key}` });
    at += widths[i];
    return box;
  });
  return drawing("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", class: "bar" }, ...boxes);
}

/** The lines from the model's part of the pool to the bar that shows it whole. */
function glass(share) {
  const shape = drawing("polygon", { points: `0,0 ${share * 100},0 100,10 0,10`, class: "glass" });
  return drawing("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", class: "glass" }, shape);
}

function legend(parts) {
  const rows = parts
    .filter(([, , bytes]) => bytes > 0)
    .map(([key, label, bytes]) =>
      element("li", {}, element("i", { class: `part ${key}` }), element("span", {}, label), element("b", {}, formatBytes(bytes))),
    );
  return element("ul", { class: "legend", "aria-hidden": "true" }, ...rows); // the picture's label says the same
}
