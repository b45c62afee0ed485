// What the page asks of the server that it came from.

import { eventData } from "./events.js";
import { apiKey } from "./settings.js";

const BROKEN = "the answer broke off: the server went away (look at what `llmrun serve` says, then ask again)";

/** An answer that says what went wrong. status: of HTTP, 0 where there was no answer; wait: seconds until trying again. */
export class ServerError extends Error {
  constructor(message, status, wait = null) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

/** Return the names of the models that may be asked. */
export async function listModels() {
  const answer = await ask("v1/models");
  return (await answer.json()).data.map((model) => model.id);
}

/** Return the machine, and the plans of the models that are loaded. */
export async function readPlan() {
  return (await ask("v1/plan")).json();
}

/** Give the parts of an answer as they come; aborting the signal ends it, and frees its place on the server. */
export async function* streamChat(body, signal) {
  const wish = { ...body, stream: true, stream_options: { include_usage: true } };
  const answer = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(wish),
    signal,
  });
  let finished = false;
  for await (const data of eventsOf(answer)) {
    if (data === "[DONE]") return;
    const part = JSON.parse(data);
    if (part.error) throw new ServerError(errorText(part, answer.status), answer.status);
    finished ||= part.choices?.some((choice) => choice.finish_reason) ?? false;
    yield part;
  }
  if (!finished) throw new ServerError(BROKEN, 0);
}

async function* eventsOf(answer) {
  try {
    yield* eventData(answer.body);
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(BROKEN, 0);
  }
}

async function ask(path, options = {}) {
  const key = apiKey();
  const headers = { Accept: "application/json", ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(new URL(path, location.origin + location.pathname), { cache: "no-store", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(`${location.origin} does not answer (is \`llmrun serve\` still running?)`, 0);
  }
  if (answer.ok) return answer;
  const wait = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10);
  throw new ServerError(await refusal(answer), answer.status, Number.isNaN(wait) ? null : wait);
}

async function refusal(answer) {
  const text = await answer.text().catch(() => "");
  try {
    return errorText(JSON.parse(text), answer.status);
  } catch {
    return text.trim() || `the server answered with status ${answer.status}`;
  }
}

function errorText({ error }, status) {
  return (typeof error === "string" ? error : error?.message) || `the server answered with status ${status}`;
}
