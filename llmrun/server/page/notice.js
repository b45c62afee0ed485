// Short messages: seen in a corner, and heard by who listens instead of looking.

import { element, find } from "./dom.js";

const SHOWN = 8000; // milliseconds; long enough to read two lines, and to take a deletion back

/** Show a message for a while. action: {label, act}, what may be done about it. */
export function notify(text, action = null) {
  const note = element("div", { class: "notice", role: "status" }, element("span", {}, text));
  const timer = setTimeout(() => note.remove(), SHOWN);
  const close = () => {
    clearTimeout(timer);
    note.remove();
  };
  if (action) {
    const button = element("button", { type: "button", class: "plain" }, action.label);
    button.addEventListener("click", () => {
      close();
      action.act();
    });
    note.append(button);
  }
  find("#notices").replaceChildren(note);
}

/** Say something to who listens; an answer is said to be there, not read out token by token. */
export function announce(text) {
  find("#status").textContent = text;
}

/** Put a text on the clipboard; where the browser does not let us, it says so. */
export async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // pages that came without TLS from another machine have no clipboard
    notify("This browser lets only pages over https copy: select the text instead.");
    return;
  }
  announce("copied");
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1500);
}
