// A conversation as a value: what is in it, what of it the server is told, and its form in a file. Pure.
//
// {id, title, named, model, system, created, updated, messages}; times are ISO 8601. A message is
// {role: "user", content, at} or {role: "assistant", content, thoughts, model, at, finish, figures, error}.

const CONSONANTS = "bdfghjklmnprstvz";
const VOWELS = "aiou";
const TITLE = 60; // characters, as `llmrun history` allows

/** Return a conversation in which nothing has been said. */
export function newConversation({ model, system }) {
  const now = new Date().toISOString();
  return { id: newId(), title: "", named: false, model, system, created: now, updated: now, messages: [] };
}

/** Return an id as llmrun's: 32 random bits as two words to say aloud (proquints, arXiv:0901.4016). */
export function newId() {
  return [...crypto.getRandomValues(new Uint16Array(2))].map(word).join("-");
}

function word(bits) {
  const consonant = (shift) => CONSONANTS[(bits >> shift) & 15];
  const vowel = (shift) => VOWELS[(bits >> shift) & 3];
  return consonant(12) + vowel(10) + consonant(6) + vowel(4) + consonant(0);
}

/** Return what a conversation is called: its name, else how it begins. */
export function titleOf(conversation) {
  const begin = conversation.messages[0]?.content.trim().replace(/\s+/g, " ") ?? "";
  return conversation.title || cut(begin, TITLE) || "new conversation";
}

/** Return a text as a name that `llmrun history` takes: one line that is not too long. */
export function asName(text) {
  return [...text.replace(/[\p{C}\s]+/gu, " ").trim()].slice(0, TITLE).join("").trim();
}

function cut(text, length) {
  const letters = [...text];
  return letters.length <= length ? text : `${letters.slice(0, length - 1).join("").trimEnd()}…`;
}

/** Return the messages as the server is sent them; what the model thought is not told it again. */
export function wireMessages(conversation) {
  const said = conversation.messages.filter((message) => message.role === "user" || message.content);
  const system = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  return [...system, ...said.map(({ role, content }) => ({ role, content }))];
}

/** Return a conversation as `llmrun history export` writes it, and `llmrun history import` reads it. */
export function exportJson(conversation) {
  const { id, title, model, system, created, updated } = conversation;
  const turns = conversation.messages
    .filter((message) => message.role === "user" || message.content || message.thoughts)
    .map((message) => ({
      role: message.role,
      content: message.content,
      thoughts: message.thoughts ?? "",
      images: [],
      model: message.model ?? null,
      finish_reason: message.finish ?? null,
      usage: usageOf(message.figures ?? {}),
      at: message.at,
    }));
  const name = title || null;
  const whole = { format: 1, id, name, model, resolved: null, system: system || null, settings: {}, created, updated, turns };
  return `${JSON.stringify(whole, null, 1)}\n`;
}

function usageOf({ promptTokens, completionTokens, rate }) {
  const known = { prompt_tokens: promptTokens, completion_tokens: completionTokens, decode_tokens_per_second: rate };
  return Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined && value !== null));
}
