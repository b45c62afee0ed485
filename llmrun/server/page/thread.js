// The messages of the conversation that is open, and what of them is in sight.

import { isAnswered, turnsOf } from "./conversation.js";
import { find } from "./dom.js";
import { AnswerView, QuestionView } from "./message.js";

const NEAR = 60; // pixels from the end that still count as being there

/** The conversation on the screen. */
export class Thread {
  #root = find("#thread");
  #scroll = find("#scroll");
  #views = [];
  #atEnd = true;
  #frame = 0;

  constructor() {
    this.#scroll.addEventListener("scroll", () => this.#look(), { passive: true });
    // the keyboard of a phone, a longer question, a picture of memory: the end stays in sight where it was
    const resized = new ResizeObserver(() => this.#follow());
    resized.observe(this.#scroll);
    resized.observe(this.#root);
  }

  /** Show all messages of a conversation; busy: the last one is being written. */
  open(conversation, busy) {
    this.#views = [];
    this.#root.replaceChildren();
    for (const message of conversation.messages) this.#add(message);
    this.#views.forEach((view) => view.show?.(false));
    this.refresh(busy);
    this.toEnd();
  }

  /** Show messages that were said since. */
  append(messages, busy) {
    for (const message of messages) this.#add(message);
    this.refresh(busy);
    this.toEnd();
  }

  /** Draw the last message as it is now. */
  refresh(busy) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const turns = turnsOf(this.#views.map(({ message }) => message));
    const open = turns.filter((turn, i) => !isAnswered(turn) && !(busy && i === turns.length - 1)).map(([first]) => first);
    for (const view of this.#views) {
      view.setState({ unanswered: open.includes(view.message), last: view === this.#views.at(-1), busy });
    }
    this.#views.at(-1)?.show?.(busy);
    this.#follow();
  }

  /** Draw it soon: once for all that comes until the screen is drawn. */
  refreshSoon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#views.at(-1)?.show?.(true);
      this.#follow();
    });
  }

  /** Return the message that an element is part of, and its view. */
  viewOf(target) {
    const article = target.closest("article");
    return this.#views.find((view) => view.element === article) ?? null;
  }

  /** Let a question be changed; message: which, null is the last one. `done` is called with the message and the text. */
  edit(message, done) {
    const questions = this.#views.filter((view) => view instanceof QuestionView);
    const view = message ? questions.find((one) => one.message === message) : questions.at(-1);
    if (view && !view.element.classList.contains("editing")) view.edit((text) => done(view.message, text));
  }

  toEnd() {
    this.#atEnd = true;
    this.#follow();
  }

  #add(message) {
    const view = message.role === "user" ? new QuestionView(message) : new AnswerView(message, message.model);
    this.#views.push(view);
    this.#root.append(view.element);
  }

  /** Who scrolled up reads there in peace; who is at the end stays there. */
  #follow() {
    if (this.#atEnd) this.#scroll.scrollTop = this.#scroll.scrollHeight;
    this.#look();
  }

  #look() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroll;
    this.#atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    find("#to-end").hidden = this.#atEnd;
  }
}
