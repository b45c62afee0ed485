// What people set, and where it is kept: settings in the browser, the key only until the tab is closed.

const SETTINGS = "llmrun.settings";
const KEY = "llmrun.key";
const OPEN = "llmrun.open";
const DEFAULTS = { model: "", system: "", temperature: null, maxTokens: null, panel: null };

/** Return all settings; null is whatever the server thinks best. */
export function settings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

/** Change some of them; where the browser keeps nothing they hold until the page is left. */
export function changeSettings(change) {
  const changed = { ...settings(), ...change };
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(changed));
  } catch {
    Object.assign(DEFAULTS, changed);
  }
  return changed;
}

/** Return the id of the conversation that was open in this tab, "" for none. */
export function openBefore() {
  try {
    return sessionStorage.getItem(OPEN) ?? "";
  } catch {
    return "";
  }
}

/** Keep which conversation is open, for as long as this tab lives; "" is a new one. */
export function keepOpen(id) {
  try {
    sessionStorage.setItem(OPEN, id);
  } catch {
    // a browser that keeps nothing: the address alone tells it
  }
}

let keyOfPage = "";

/** Return the key that the server wants, "" for none. */
export function apiKey() {
  try {
    return sessionStorage.getItem(KEY) ?? keyOfPage;
  } catch {
    return keyOfPage;
  }
}

/** Keep the key for as long as this tab lives. */
export function setApiKey(key) {
  keyOfPage = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // a browser that keeps nothing: then it is asked for again after a reload
  }
}
