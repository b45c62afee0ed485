// Conversations kept in the browser, in IndexedDB; where there is none, until the page is left.

const NAME = "llmrun";
const STORE = "conversations";
const VERSION = 1;

/** What the browser said when something could not be kept. full: no room is left. */
export class StoreError extends Error {
  constructor(cause) {
    super(cause?.message ?? "the browser keeps nothing", { cause });
    this.full = cause?.name === "QuotaExceededError";
  }
}

/** Conversations by id. lasting: whether they survive the page. */
export class Store {
  #database;
  #memory = new Map();
  #channel = new BroadcastChannel("llmrun.conversations");

  constructor(database) {
    this.#database = database;
    this.lasting = database !== null;
  }

  /** Open what the browser keeps, else a store that forgets. */
  static async open() {
    try {
      const request = indexedDB.open(NAME, VERSION);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
      return new Store(await result(request));
    } catch {
      return new Store(null);
    }
  }

  /** Return all conversations, the one that changed last first. */
  async list() {
    const all = this.#database ? await this.#ask("readonly", (store) => store.getAll()) : [...this.#memory.values()];
    return all.sort((a, b) => (a.updated < b.updated ? 1 : a.updated > b.updated ? -1 : 0));
  }

  /** Return one, or null where it is gone. */
  async get(id) {
    const found = this.#database ? await this.#ask("readonly", (store) => store.get(id)) : this.#memory.get(id);
    return found ?? null;
  }

  /** Keep one; raises StoreError where the browser has no room, or no wish. */
  async put(conversation) {
    if (this.#database) await this.#ask("readwrite", (store) => store.put(conversation));
    else this.#memory.set(conversation.id, structuredClone(conversation));
    this.#channel.postMessage(conversation.id);
  }

  async remove(id) {
    if (this.#database) await this.#ask("readwrite", (store) => store.delete(id));
    else this.#memory.delete(id);
    this.#channel.postMessage(id);
  }

  /** Call a function with the id of each conversation that another tab changed. */
  onChange(tell) {
    this.#channel.onmessage = ({ data }) => tell(data);
  }

  async #ask(mode, what) {
    try {
      const transaction = this.#database.transaction(STORE, mode);
      const asked = result(what(transaction.objectStore(STORE)));
      const kept = new Promise((resolve, reject) => {
        transaction.oncomplete = resolve;
        transaction.onabort = () => reject(transaction.error);
      });
      const [value] = await Promise.all([asked, kept]); // only then it is on disk
      return value;
    } catch (error) {
      throw new StoreError(error);
    }
  }
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older version of the page"));
  });
}
