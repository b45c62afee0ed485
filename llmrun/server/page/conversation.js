// A conversation as a value: what is in it, what of it the server is told. Pure.
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

/** Return the messages in turns: each a question with what answered it. */
export function turnsOf(messages) {
  const turns = [];
  for (const message of messages) {
    if (message.role === "user" || !turns.length) turns.push([message]);
    else turns.at(-1).push(message);
  }
  return turns;
}

/** Tell whether a turn has an answer, be it a part of one. */
export function isAnswered(turn) {
  return turn.some(({ role, content }) => role === "assistant" && content);
}

/**
 * Return the messages as the server is sent them, of which the last is what is asked now.
 *
 * A question that was refused would be refused each time: what has no answer is left out, and so is what was thought.
 */
export function wireMessages(conversation) {
  const turns = turnsOf(conversation.messages);
  const said = turns.filter((turn, i) => i === turns.length - 1 || isAnswered(turn)).flat();
  const told = said.filter(({ role, content }) => role === "user" || content);
  const system = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  return [...system, ...told.map(({ role, content }) => ({ role, content }))];
}
