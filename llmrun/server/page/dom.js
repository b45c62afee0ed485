// Elements of the page, made without markup in text.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element with attributes and children; strings become text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const child of children) made.append(child);
  // after them: with dir="auto" each child would have the browser look at all others
  for (const [name, value] of Object.entries(attributes)) if (value !== "" || name === "disabled") made.setAttribute(name, value);
  return made;
}

/** Return an element of a drawing. */
export function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** Return the first element that a selector finds; there must be one. */
export function find(selector, root = document) {
  const found = root.querySelector(selector);
  if (!found) throw new Error(`the page has no ${selector}`);
  return found;
}

/** Return what is in a template of the page, anew. */
export function instance(id) {
  return find(`#${id}`).content.firstElementChild.cloneNode(true);
}

/** Make an element like another one, changing only what differs: what is selected or unfolded in it stays so. */
export function morph(from, to) {
  if (from.isEqualNode(to)) return;
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) return from.replaceWith(to);
  if (from.nodeType === Node.TEXT_NODE) {
    // text grows at its end; replacing all of it would lose what is selected
    if (to.data.startsWith(from.data)) from.appendData(to.data.slice(from.data.length));
    else from.data = to.data;
    return;
  }
  for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  const wanted = [...to.childNodes];
  const present = [...from.childNodes];
  wanted.forEach((child, i) => (i < present.length ? morph(present[i], child) : from.append(child)));
  present.slice(wanted.length).forEach((child) => child.remove());
}
