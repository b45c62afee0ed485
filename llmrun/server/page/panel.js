// What is beside the conversation: the picture of memory, and the settings.

import { element, find } from "./dom.js";
import { memoryPicture } from "./memory.js";
import { changeSettings, settings } from "./settings.js";

/** Show the plan of a model, wherever it is shown; null where the model is not loaded. */
export function showPlan(plan) {
  const shown = () => (plan ? memoryPicture(plan) : element("p", { class: "quiet" }, "It loads when you ask something."));
  for (const place of [find("#memory"), find("#welcome-memory")]) place.replaceChildren(shown());
}

/** Show what is set, and keep what people set; `tell` is called with the system prompt when it changes. */
export function bindSettings(tell) {
  const { temperature, maxTokens, system } = settings();
  bindNumber("#temperature", temperature, (value) => changeSettings({ temperature: value }));
  bindNumber("#max-tokens", maxTokens, (value) => changeSettings({ maxTokens: value }));
  const box = find("#system");
  box.value = system;
  box.addEventListener("input", () => {
    changeSettings({ system: box.value });
    tell(box.value);
  });
}

/** Show the system prompt of the conversation that is open. */
export function showSystem(text) {
  find("#system").value = text;
}

function bindNumber(selector, value, keep) {
  const box = find(selector);
  box.value = value ?? "";
  box.addEventListener("input", () => {
    // an empty field is the server's own choice; what is no number is not kept
    if (box.validity.valid) keep(box.value === "" ? null : box.valueAsNumber);
  });
}

/** Open or close the lists at the sides; on a wide screen the panel's state is kept. */
export class Sides {
  #wide = matchMedia("(min-width: 60rem)");
  #open = { sidebar: false, panel: false };

  constructor() {
    this.#wide.addEventListener("change", () => this.#begin());
    this.#begin();
  }

  toggle(name) {
    this.#open[name] = !this.#open[name];
    if (!this.#wide.matches && this.#open[name]) this.#open[name === "panel" ? "sidebar" : "panel"] = false;
    if (this.#wide.matches && name === "panel") changeSettings({ panel: this.#open.panel });
    this.#show();
    find(this.#open[name] ? `#${name} button` : `header [data-do="toggle-${name}"]`).focus({ preventScroll: true });
  }

  /** Close what covers the conversation; tells whether there was something. */
  close() {
    if (this.#wide.matches || !(this.#open.sidebar || this.#open.panel)) return false;
    this.#open = { sidebar: false, panel: false };
    this.#show();
    return true;
  }

  #begin() {
    const wide = this.#wide.matches;
    this.#open = { sidebar: wide, panel: wide && Boolean(settings().panel) };
    this.#show();
  }

  #show() {
    for (const [name, open] of Object.entries(this.#open)) {
      find(`#${name}`).toggleAttribute("inert", !open);
      document.body.classList.toggle(`with-${name}`, open);
      find(`header [data-do="toggle-${name}"]`).setAttribute("aria-expanded", String(open));
    }
    const covered = !this.#wide.matches && (this.#open.sidebar || this.#open.panel);
    find("#shade").hidden = !covered;
    find("#desk").toggleAttribute("inert", covered);
  }
}
