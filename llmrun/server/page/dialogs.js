// The one thing the page has to ask for: the server's key.

import { find } from "./dom.js";
import { setApiKey } from "./settings.js";

let answered = null; // what waits for the dialog that is open

/** Ask for the key; error: why the last one was none, "" at first. Resolves to whether one was given. */
export function askForKey(error = "") {
  const dialog = find("#key-dialog");
  const line = find("#key-error");
  line.textContent = error;
  line.hidden = !error;
  find("#key").value = "";
  if (!dialog.open) dialog.showModal();
  answered ??= waitFor(dialog).finally(() => (answered = null));
  return answered;
}

function waitFor(dialog) {
  return new Promise((resolve) => {
    const form = find("form", dialog);
    let given = false;
    form.onsubmit = (event) => {
      event.preventDefault();
      setApiKey(find("#key").value.trim());
      given = true;
      dialog.close();
    };
    find('[data-do="close-dialog"]', dialog).onclick = () => dialog.close();
    dialog.onclose = () => {
      // Chromium gives the focus back to where it was, and yet takes no text there before it comes once more
      const focused = document.activeElement;
      focused?.blur();
      focused?.focus();
      resolve(given);
    };
  });
}
