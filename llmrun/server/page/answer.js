// One answer while it is being written: the parts that come, put together, and its figures.

import { streamChat } from "./server.js";

const SETTLED = 8; // parts after which a rate means something

/** Ask, and fill in a message while the answer comes; `tell` is called after each part. Raises what streamChat does. */
export async function writeAnswer(body, message, signal, tell) {
  const progress = new Progress(message);
  try {
    for await (const part of streamChat(body, signal)) {
      progress.take(part);
      tell();
    }
  } finally {
    progress.end();
  }
}

/** What has come of an answer; rates are measured here until the server tells its own. */
class Progress {
  #message;
  #began = null;
  #parts = 0;

  constructor(message) {
    this.#message = message;
    this.#message.figures = { asked: performance.now() };
  }

  take(part) {
    const { delta, finish_reason: finish } = part.choices?.[0] ?? {};
    const message = this.#message;
    message.content += delta?.content ?? "";
    message.thoughts += delta?.reasoning_content ?? "";
    if (delta?.content || delta?.reasoning_content) this.#count(Boolean(delta.content));
    if (finish) message.finish = finish;
    if (part.model) message.model = part.model;
    if (part.usage) this.#use(part.usage);
    if (part.timings) this.#time(part.timings);
  }

  /** Keep of the figures what can be read later. */
  end() {
    delete this.#message.figures.asked;
  }

  #count(answering) {
    const now = performance.now();
    const figures = this.#message.figures;
    this.#began ??= now;
    this.#parts += 1;
    figures.firstSeconds ??= (now - figures.asked) / 1000;
    if (answering && this.#message.thoughts) figures.thoughtSeconds ??= (now - this.#began) / 1000;
    figures.completionTokens = this.#parts;
    if (this.#parts >= SETTLED) figures.rate = ((this.#parts - 1) / (now - this.#began)) * 1000;
  }

  #use(usage) {
    this.#message.figures.promptTokens = usage.prompt_tokens;
    this.#message.figures.completionTokens = usage.completion_tokens;
  }

  #time(timings) {
    if (timings.predicted_per_second) this.#message.figures.rate = timings.predicted_per_second;
  }
}
