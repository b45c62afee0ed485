// The page's beginning: its parts are made, and what people press reaches them.

import { Desk } from "./desk.js";
import { askForKey } from "./dialogs.js";
import { element, find } from "./dom.js";
import { copyText, notify } from "./notice.js";
import { bindSettings, showPlan, Sides } from "./panel.js";
import { listModels, readPlan } from "./server.js";
import { changeSettings, settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Store } from "./store.js";
import { Thread } from "./thread.js";

const fingers = matchMedia("(hover: none) and (pointer: coarse)"); // their keyboards have no Shift+Enter

/** What the server says of itself: its models, and their plans. */
class Served {
  models = [];
  #plans = null; // by names; null while the server has not told

  get model() {
    return find("#model").value;
  }

  /** Ask for the models; where the server wants a key, for that first. */
  async begin() {
    for (let error = ""; ; ) {
      try {
        this.models = await listModels();
        break;
      } catch (problem) {
        if (problem.status === 401 && (await askForKey(error))) error = "That key was refused: look for typing errors.";
        else return notify(problem.message, { label: "Try again", act: () => location.reload() });
      }
    }
    const options = this.models.map((name) => element("option", { value: name, title: name }, name));
    find("#model").replaceChildren(...options);
    this.choose(this.models.includes(settings().model) ? settings().model : this.models[0]);
    await this.refresh();
  }

  choose(name) {
    find("#model").value = name;
    find("#welcome-model").textContent = name;
    this.#show();
  }

  /** Read the plans again: another model may have been loaded. */
  async refresh() {
    try {
      const { models } = await readPlan();
      this.#plans = new Map(models.map(({ name, plan }) => [name, plan]));
    } catch {
      return; // the picture is a help, not the point
    }
    this.#show();
  }

  /** Return how many tokens a conversation with a model may have, or null where that is not known. */
  contextOf(name) {
    return this.#plans?.get(name || this.model)?.n_ctx ?? null;
  }

  #show() {
    if (this.#plans && this.model) showPlan(this.#plans.get(this.model) ?? null);
  }
}

function bindQuestion(desk) {
  const box = find("#question");
  const fit = () => {
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  };
  const send = () => {
    if (desk.busy || !box.value.trim()) return;
    desk.ask(box.value);
    box.value = "";
    fit();
  };
  box.addEventListener("input", fit);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !fingers.matches) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && box.value === "") {
      event.preventDefault();
      desk.edit();
    }
  });
  find("#ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
    box.focus();
  });
  if (fingers.matches) {
    box.setAttribute("enterkeyhint", "enter");
    find("#hint").textContent = "";
  } else box.focus();
}

function bindButtons(desk, thread, sides) {
  const rowOf = (button) => button.closest("li").dataset.id;
  const actions = {
    new: () => {
      sides.close();
      desk.show();
      find("#question").focus();
    },
    open: (button) => {
      sides.close();
      desk.openById(rowOf(button));
    },
    rename: (button) => desk.rename(rowOf(button)),
    remove: (button) => desk.remove(rowOf(button)),
    stop: () => desk.stop(),
    again: (button) => desk.again(thread.viewOf(button).message),
    edit: (button) => desk.edit(thread.viewOf(button).message),
    "remove-turn": (button) => desk.removeTurn(thread.viewOf(button).message),
    export: () => desk.exportOpen(),
    import: () => find("#import").click(),
    copy: (button) => copyText(thread.viewOf(button).message.content, button),
    "copy-code": (button) => copyText(button.closest(".code").querySelector("pre").textContent, button),
    "to-end": () => thread.toEnd(),
    "toggle-sidebar": () => sides.toggle("sidebar"),
    "toggle-panel": () => sides.toggle("panel"),
    "close-sides": () => sides.close(),
    "ask-key": async () => (await askForKey()) && location.reload(),
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) actions[button.dataset.do]?.(button);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing && !sides.close() && !find("#key-dialog").open) desk.stop();
  });
}

function bindImport(desk) {
  const field = find("#import");
  field.addEventListener("change", async () => {
    const [file] = field.files;
    if (file) await desk.importFile(file);
    field.value = ""; // else the same file could not be chosen again
  });
}

/** Leave an address with a password in it: browsers send none with styles and pictures from there, but know it by now. */
function leavePassword() {
  const { username, password } = new URL(document.baseURI);
  if (!username && !password) return false;
  location.replace(location.origin + location.pathname + location.search + location.hash);
  return true;
}

async function begin() {
  if (leavePassword()) return;
  find("#unready").remove();
  const [store, sides] = [await Store.open(), new Sides()];
  const [server, thread] = [new Served(), new Thread()];
  const desk = new Desk({ store, thread, sidebar: new Sidebar(), server });
  find("#unkept").hidden = store.lasting;
  bindSettings((text) => desk.setSystem(text));
  bindQuestion(desk);
  bindButtons(desk, thread, sides);
  bindImport(desk);
  find("#model").addEventListener("change", ({ target }) => {
    server.choose(target.value);
    desk.chooseModel(target.value);
  });
  addEventListener("hashchange", () => desk.openById(decodeURIComponent(location.hash.slice(1))));
  await desk.begin();
  await server.begin();
  if (desk.open.messages.length && server.models.includes(desk.open.model)) server.choose(desk.open.model);
  else changeSettings({ model: server.model });
  desk.refreshStatus();
  document.body.dataset.ready = "true";
}

await begin();
