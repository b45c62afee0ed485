// One message on the screen: a question, or an answer as far as it is written.

import { find, instance } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { formatCount, formatRate } from "./units.js";

const LEFT = "The page was left before this answer was complete: ask again.";
const STOPPED = "Stopped.";
const CUT = "The answer was cut off: max tokens, or the context, was reached. Ask it to go on, or begin a new conversation.";

/** The element of a question, and what is done with it. */
export class QuestionView {
  constructor(message) {
    this.element = instance("question-message");
    this.message = message;
    find(".text", this.element).textContent = message.content;
  }

  /** Mark it where it has no answer, and is left out of what is sent; busy: nothing can be changed just now. */
  setState({ unanswered, busy }) {
    this.element.classList.toggle("unanswered", unanswered);
    find(".left-out", this.element).hidden = !unanswered;
    for (const button of this.element.querySelectorAll("[data-change]")) button.hidden = busy;
  }

  /** Let the question be changed; `done` is called with the text, or with null where it stays. */
  edit(done) {
    const form = instance("editor");
    const box = find("textarea", form);
    const end = (text) => {
      form.remove();
      this.element.classList.remove("editing");
      done(text);
    };
    box.value = this.message.content;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (box.value.trim()) end(box.value.trim());
    });
    find('[data-do="cancel-edit"]', form).addEventListener("click", () => end(null));
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        end(null);
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.element.classList.add("editing");
    this.element.append(form);
    box.focus();
  }
}

/** The element of an answer. */
export class AnswerView {
  #text;
  #thoughts;

  constructor(message, name) {
    this.element = instance("answer-message");
    this.message = message;
    const [thoughts, text] = this.element.querySelectorAll(".text");
    this.#thoughts = new MarkdownView(thoughts);
    this.#text = new MarkdownView(text);
    find("h2", this.element).textContent = name;
  }

  /** Show it as it is now; busy: while it is being written. */
  show(busy) {
    const { message, element } = this;
    element.setAttribute("aria-busy", String(busy));
    element.classList.toggle("busy", busy);
    this.#showThoughts(busy);
    this.#text.show(message.content, busy);
    find(".waiting", element).hidden = !busy || Boolean(message.content);
    this.#line(".note", busy ? "" : noteOf(message));
    this.#line(".error", message.error ?? "");
    find(".figures", element).textContent = busy ? "" : figuresText(message.figures ?? {});
  }

  setState({ last, busy }) {
    find('[data-do="again"]', this.element).hidden = !last || busy;
    find(".tools", this.element).hidden = !busy && !this.message.content; // what there is to do is beside the question
  }

  #showThoughts(busy) {
    const { thoughts, content, figures } = this.message;
    const box = find(".thoughts", this.element);
    box.hidden = !thoughts;
    if (!thoughts) return;
    const seconds = figures?.thoughtSeconds;
    const done = content || !busy;
    const took = seconds === undefined ? "Thoughts" : `Thought for ${Math.max(1, Math.round(seconds))} s`;
    find("summary", box).textContent = done ? took : "Thinking…";
    // what is folded is drawn when it is unfolded, and then as it grows
    if (box.open || done) this.#thoughts.show(thoughts, busy && !content);
    box.ontoggle = () => this.#thoughts.show(this.message.thoughts, busy && !this.message.content);
  }

  #line(selector, text) {
    const line = find(selector, this.element);
    line.hidden = !text;
    if (line.textContent !== text) line.textContent = text;
  }
}

function noteOf({ finish, error }) {
  if (finish === "length") return CUT;
  if (finish === "stopped") return STOPPED;
  return finish || error ? "" : LEFT;
}

function figuresText({ rate, completionTokens, firstSeconds }) {
  const known = [
    completionTokens && `${formatCount(completionTokens)} ${completionTokens === 1 ? "token" : "tokens"}`,
    rate && formatRate(rate),
    firstSeconds !== undefined && `first after ${firstSeconds.toFixed(2)} s`,
  ];
  return known.filter(Boolean).join(" · ");
}
