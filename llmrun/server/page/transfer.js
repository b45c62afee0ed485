// A conversation in a file, as `llmrun history` writes and reads it. Pure.

import { asName, newId } from "./conversation.js";

const FORMAT = 1;
const ROLES = ["user", "assistant"];
const ID = /^[a-z]{5}-[a-z]{5}$/;

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
  const whole = { format: FORMAT, id, name, model, resolved: null, system: system || null, settings: {}, created, updated, turns };
  return `${JSON.stringify(whole, null, 1)}\n`;
}

function usageOf({ promptTokens, completionTokens, rate }) {
  const known = { prompt_tokens: promptTokens, completion_tokens: completionTokens, decode_tokens_per_second: rate };
  return Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined && value !== null));
}

/** Return the conversation that exportJson, or `llmrun history export`, wrote. Raises TypeError for any other text. */
export function importJson(text) {
  const whole = parsed(text);
  if (whole?.format !== FORMAT) throw new TypeError("this file is no conversation of llmrun");
  const { id, name, model, system, created, updated, turns } = whole;
  if (!Array.isArray(turns) || !turns.length) throw new TypeError("nothing is said in this conversation");
  const now = new Date().toISOString();
  return {
    id: ID.test(id) ? id : newId(),
    title: asName(textOr(name, "")),
    named: false,
    model: textOr(model, ""),
    system: textOr(system, ""),
    created: textOr(created, now),
    updated: textOr(updated, now),
    messages: turns.map((turn) => messageOf(turn, textOr(model, ""))),
  };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new TypeError("this file is no JSON");
  }
}

function messageOf(turn, model) {
  if (!ROLES.includes(turn?.role) || typeof turn.content !== "string") throw new TypeError("a turn in it is none");
  const said = { role: turn.role, content: turn.content, at: textOr(turn.at, null) };
  if (turn.role === "user") return said;
  const finish = textOr(turn.finish_reason, "stop"); // else the page would take it for broken off
  return { ...said, thoughts: textOr(turn.thoughts, ""), model: textOr(turn.model, model), finish, figures: figuresOf(turn.usage ?? {}) };
}

function figuresOf({ prompt_tokens, completion_tokens, decode_tokens_per_second }) {
  const known = { promptTokens: prompt_tokens, completionTokens: completion_tokens, rate: decode_tokens_per_second };
  return Object.fromEntries(Object.entries(known).filter(([, value]) => Number.isFinite(value)));
}

function textOr(value, other) {
  return typeof value === "string" ? value : other;
}
