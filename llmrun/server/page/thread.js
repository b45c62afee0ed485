// The messages of the conversation that is open, and what of them is in sight.

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
    const lastQuestion = this.#views.findLast((view) => view instanceof QuestionView);
    this.#views.forEach((view) => view.setLast(view === lastQuestion || view === this.#views.at(-1), busy));
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

  editLast(done) {
    this.#views.findLast((view) => view instanceof QuestionView)?.edit(done);
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
