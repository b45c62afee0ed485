// What people do here: ask, stop, ask again, and go from one conversation to another.

import { writeAnswer } from "./answer.js";
import { asName, isAnswered, newConversation, newId, titleOf, turnsOf, wireMessages } from "./conversation.js";
import { askForKey } from "./dialogs.js";
import { element, find } from "./dom.js";
import { announce, notify } from "./notice.js";
import { showSystem } from "./panel.js";
import { changeSettings, keepOpen, openBefore, settings } from "./settings.js";
import { exportJson, importJson } from "./transfer.js";
import { formatCount, formatRate } from "./units.js";

const KEEP_EVERY = 1500; // milliseconds between two states of an answer that a crash of the browser leaves

/** The conversation that is open, the others, and the answers on their way. */
export class Desk {
  #store;
  #thread;
  #sidebar;
  #server;
  #all = [];
  #answering = new Map(); // ids of conversations to what aborts their answers

  constructor({ store, thread, sidebar, server }) {
    this.#store = store;
    this.#thread = thread;
    this.#sidebar = sidebar;
    this.#server = server;
    this.open = newConversation(settings());
    store.onChange((id) => this.#changedElsewhere(id));
  }

  get busy() {
    return this.#answering.has(this.open.id);
  }

  /** Show what was open when the page was left. */
  async begin() {
    this.#all = await this.#store.list();
    const wanted = decodeURIComponent(location.hash.slice(1)) || openBefore();
    this.show(this.#all.find(({ id }) => id === wanted) ?? this.open);
  }

  /** Open a conversation, or a new one. */
  show(conversation = newConversation(settings())) {
    this.open = conversation;
    const known = conversation.messages.length > 0;
    this.#markOpen();
    if (known && this.#server.models.includes(conversation.model)) this.#server.choose(conversation.model);
    showSystem(conversation.system);
    this.#thread.open(conversation, this.busy);
    this.#refresh();
  }

  async openById(id) {
    const running = this.#answering.get(id)?.conversation;
    const found = running ?? (await this.#store.get(id));
    if (found) this.show(found);
  }

  ask(text) {
    if (this.busy || !text.trim()) return;
    this.#answer([{ role: "user", content: text.trim(), at: new Date().toISOString() }]);
  }

  /** Ask once more what a message is part of. What never had an answer is asked at the end: what is there stays. */
  again(message) {
    const turns = turnsOf(this.open.messages);
    const turn = turns.find((one) => one.includes(message));
    if (this.busy || turn?.[0].role !== "user" || (turn !== turns.at(-1) && isAnswered(turn))) return;
    this.open.messages = turns.filter((one) => one !== turn).flat();
    this.#thread.open(this.open, false);
    this.#answer([turn[0]]);
  }

  /** Let a question be asked in other words, null is the last one; what follows it is then dropped. */
  edit(message = null) {
    if (this.busy) return;
    this.#thread.edit(message, (question, text) => {
      if (text !== null && !this.busy) this.#askInstead(question, text);
      find("#question").focus();
    });
  }

  #askInstead(question, text) {
    const { open } = this;
    const before = open.messages;
    const index = before.indexOf(question);
    if (index < 0) return; // another tab changed it meanwhile
    const dropped = turnsOf(before.slice(index)).length - 1;
    open.messages = before.slice(0, index);
    this.#thread.open(open, false);
    this.#answer([{ ...question, content: text, at: new Date().toISOString() }]);
    if (!dropped) return;
    this.#offerBack(dropped === 1 ? "Dropped: the question after it" : `Dropped: ${dropped} questions after it`, open, () => {
      this.#answering.get(open.id)?.controller.abort();
      open.messages = before;
    });
  }

  /** Remove a question and its answer. */
  removeTurn(message) {
    const { open } = this;
    const before = open.messages;
    const turn = turnsOf(before).find((one) => one.includes(message));
    if (this.busy || !turn) return;
    open.messages = before.filter((one) => !turn.includes(one));
    if (open.messages.length) {
      this.#thread.open(open, false);
      this.#keep(open);
      this.#refresh();
    } else {
      this.#forget(open.id);
      this.show();
    }
    // what is asked meanwhile stays
    const at = before.indexOf(turn[0]);
    this.#offerBack("Removed: a question and its answer", open, () => open.messages.splice(at, 0, ...turn));
    find("#question").focus();
  }

  #offerBack(text, conversation, takeBack) {
    const act = async () => {
      takeBack();
      await this.#keep(conversation);
      this.show(conversation);
    };
    notify(text, { label: "Undo", act });
  }

  stop() {
    this.#answering.get(this.open.id)?.controller.abort();
    return this.busy;
  }

  setSystem(text) {
    this.open.system = text;
    if (this.open.messages.length && !this.busy) this.#keep(this.open);
  }

  rename(id) {
    const conversation = this.#find(id);
    this.#sidebar.rename(id, titleOf(conversation), (text) => {
      if (text !== null && text !== titleOf(conversation)) {
        conversation.title = asName(text);
        this.#keep(conversation);
      }
      this.#refresh();
    });
  }

  async remove(id) {
    const conversation = this.#find(id);
    this.#answering.get(id)?.controller.abort();
    await this.#forget(id);
    if (this.open.id === id) this.show();
    this.#refresh();
    const takeBack = () => this.#keep(conversation).then(() => this.openById(id));
    notify(`Deleted: ${titleOf(conversation)}`, { label: "Undo", act: takeBack });
  }

  exportOpen() {
    if (!this.open.messages.length) return notify("Nothing has been said yet.");
    const address = URL.createObjectURL(new Blob([exportJson(this.open)], { type: "application/json" }));
    const link = element("a", { href: address, download: `llmrun-${this.open.id}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  /** Open the conversation that is in a file; one that is here already stays, and this is another. */
  async importFile(file) {
    let conversation;
    try {
      conversation = importJson(await file.text());
    } catch (error) {
      return notify(`${file.name} was not read: ${error.message}.`);
    }
    if (this.#find(conversation.id)) conversation.id = newId();
    await this.#keep(conversation);
    this.show(conversation);
  }

  /** Draw what depends on the state of the conversation that is open. */
  refreshStatus() {
    const last = this.open.messages.at(-1);
    const figures = (last?.role === "assistant" && last.figures) || {};
    const used = (figures.promptTokens ?? this.#promptBefore()) + (figures.completionTokens ?? 0);
    const room = this.#server.contextOf(this.open.model);
    find("#rate").textContent = this.busy && figures.rate ? formatRate(figures.rate) : "";
    const context = used && room ? `${formatCount(used)} of ${formatCount(room)} tokens` : used ? `${formatCount(used)} tokens` : "";
    find("#context").textContent = context;
    find("#context").classList.toggle("tight", Boolean(room) && used > 0.9 * room);
  }

  /** While an answer is written, how long its prompt was is known of the last one only. */
  #promptBefore() {
    const before = this.open.messages.findLast(({ figures }) => figures?.promptTokens)?.figures;
    return before ? before.promptTokens + (before.completionTokens ?? 0) : 0;
  }

  async #answer(said) {
    const conversation = this.open;
    const model = this.#server.model;
    const message = { role: "assistant", content: "", thoughts: "", model, at: new Date().toISOString() };
    conversation.model = model;
    conversation.messages.push(...said);
    const { temperature, maxTokens } = settings();
    const body = { model, messages: wireMessages(conversation) };
    if (temperature !== null) body.temperature = temperature;
    if (maxTokens !== null) body.max_tokens = maxTokens;
    conversation.messages.push(message);
    const controller = new AbortController();
    this.#answering.set(conversation.id, { controller, conversation });
    this.#thread.append([...said, message], true);
    this.#markOpen();
    announce(`${model} is answering`);
    this.#keep(conversation);
    this.#refresh();
    await this.#write(body, message, conversation, controller);
    this.#answering.delete(conversation.id);
    this.#settle(conversation, message);
  }

  /** Write an answer; what goes wrong is part of the message. Where a key is wanted, it is asked for. */
  async #write(body, message, conversation, controller) {
    let kept = performance.now();
    let refused = "";
    const tell = () => {
      if (this.open === conversation) {
        this.#thread.refreshSoon();
        this.refreshStatus();
      }
      if (performance.now() - kept < KEEP_EVERY) return;
      kept = performance.now();
      this.#keep(conversation);
    };
    for (;;) {
      try {
        return await writeAnswer(body, message, controller.signal, tell);
      } catch (error) {
        if (error.name === "AbortError") return void (message.finish ??= "stopped");
        if (error.status === 401 && (await askForKey(refused))) {
          refused = "That key was refused: look for typing errors.";
          continue;
        }
        message.error = problemText(error);
        return;
      }
    }
  }

  #settle(conversation, message) {
    const open = this.open === conversation;
    if (open) this.#thread.refresh(false);
    announce(message.error ? "" : message.finish === "stopped" ? "stopped" : `${message.model} has answered`);
    if (this.#find(conversation.id)) this.#keep(conversation);
    this.#refresh();
    this.#server.refresh().then(() => this.refreshStatus());
  }

  async #keep(conversation) {
    conversation.updated = new Date().toISOString();
    this.#all = [conversation, ...this.#all.filter(({ id }) => id !== conversation.id)];
    this.#refreshList();
    try {
      await this.#store.put(conversation);
    } catch (error) {
      notify(
        error.full
          ? "The browser has no room left for conversations: export and delete some."
          : `This conversation could not be kept (${error.message}): export it.`,
      );
    }
  }

  async #changedElsewhere(id) {
    if (this.#answering.has(id)) return;
    const here = (other) => this.#answering.get(other.id)?.conversation ?? other;
    this.#all = (await this.#store.list()).map(here);
    const fresh = this.#all.find((other) => other.id === id);
    if (this.open.id === id && fresh) this.show(fresh);
    else this.#refreshList();
  }

  /** Let a reload, and who comes back in this tab, find what is open. */
  #markOpen() {
    const id = this.open.messages.length ? this.open.id : "";
    history.replaceState(null, "", id ? `#${id}` : location.pathname + location.search);
    keepOpen(id);
  }

  #forget(id) {
    this.#all = this.#all.filter((other) => other.id !== id);
    return this.#store.remove(id);
  }

  #find(id) {
    return this.#all.find((conversation) => conversation.id === id);
  }

  #refresh() {
    find("#send").hidden = this.busy;
    find("#stop").hidden = !this.busy;
    find("#welcome").hidden = this.open.messages.length > 0;
    const title = this.open.messages.length ? titleOf(this.open) : "llmrun";
    find("#title").textContent = title;
    document.title = this.open.messages.length ? `${title} · llmrun` : "llmrun";
    this.#refreshList();
    this.refreshStatus();
  }

  #refreshList() {
    this.#sidebar.show(this.#all, this.open.id, this.#answering);
  }

  /** Take a model for what is asked next. */
  chooseModel(name) {
    changeSettings({ model: name });
    this.open.model = name;
    this.refreshStatus();
  }
}

function problemText(error) {
  const wait = error.wait ? ` Try again in ${error.wait} s.` : "";
  return `error: ${error.message || error}${wait}`;
}
