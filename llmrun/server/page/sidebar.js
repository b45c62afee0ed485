// The list of conversations.

import { element, find, instance, morph } from "./dom.js";
import { titleOf } from "./conversation.js";

/** The list on the screen. */
export class Sidebar {
  #list = find("#conversations");

  /** Show conversations; open: id of the one that is, busy: ids of those that are being answered. */
  show(conversations, open, busy) {
    const rows = conversations.map((conversation) => {
      const row = instance("conversation-row");
      const title = titleOf(conversation);
      row.dataset.id = conversation.id;
      row.classList.toggle("busy", busy.has(conversation.id));
      const button = find(".open", row);
      button.title = title;
      find("span", button).textContent = title;
      if (conversation.id === open) button.setAttribute("aria-current", "true");
      for (const [what, verb] of Object.entries({ rename: "Rename", remove: "Delete" })) {
        find(`[data-do="${what}"]`, row).setAttribute("aria-label", `${verb} ${title}`);
      }
      return row;
    });
    if (this.#list.querySelector("input")) return; // somebody is typing a name
    morph(this.#list, element("ul", { id: this.#list.id }, ...rows)); // a row that is being pressed stays what it is
  }

  /** Let a conversation be called something else; `done` is called with the text, or null where it stays. */
  rename(id, title, done) {
    const row = this.#list.querySelector(`[data-id="${id}"]`);
    const box = element("input", { type: "text", maxlength: "60", "aria-label": "Name of the conversation" });
    box.value = title;
    let ended = false;
    const end = (text) => {
      if (ended) return;
      ended = true;
      box.remove();
      done(text);
    };
    box.addEventListener("blur", () => end(box.value));
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) end(box.value);
      else if (event.key === "Escape") {
        event.stopPropagation();
        end(null);
      }
    });
    row.replaceChildren(box);
    box.select();
    box.focus();
  }
}
