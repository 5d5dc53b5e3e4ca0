// One question and its answer on the page: the live line while it works, the text, the steps, the report or the error.

import { el, on } from "./dom.js";
import { reportPanel } from "./report.js";
import { rendered } from "./text.js";
import { bytes, plural, seconds } from "./units.js";

export class Turn {
  constructor(question, files, onRetry) {
    this.text = "";
    this.texts = new Map();
    this.tokens = 0;
    this.onRetry = onRetry;
    this.started = performance.now();
    this.body = el("div", { class: "body" });
    this.steps = el("ul", { class: "steps", "aria-label": "Tools used" });
    this.live = el("p", { class: "live" }, el("span", { class: "pulse", "aria-hidden": "true" }));
    this.liveText = el("span", {}, "thinking");
    this.liveTime = el("time", {}, "");
    this.live.append(this.liveText, this.liveTime);
    this.answer = el("div", { class: "answer", "aria-busy": "true" }, this.steps, this.body, this.live);
    const chips = files.map((file) => el("li", {}, `${file.source} `, el("small", {}, bytes(file.text.length))));
    this.node = el("li", { class: "turn" },
      el("div", { class: "question" }, el("h2", { class: "sr" }, "You asked"), el("p", {}, question),
        chips.length > 0 && el("ul", { class: "files" }, chips)),
      this.answer);
    this.clock = setInterval(() => this.tick(), 100);
  }

  // Whether it belongs to what the model is told of the talk: what failed is asked again, not remembered.
  get isKept() {
    return this.text !== "" && !this.hasFailed;
  }

  tick() {
    const elapsed = (performance.now() - this.started) / 1000;
    if (elapsed > 0.5) this.liveTime.textContent = `${elapsed.toFixed(1)} s`;
  }

  add(chunk) {
    if (chunk.edgeagent_event) this.step(chunk.edgeagent_event);
    if (chunk.usage) this.tokens = chunk.usage.completion_tokens;
    if (chunk.edgeagent) this.report = chunk.edgeagent;
    const words = chunk.choices[0]?.delta.content;
    if (!words) return;
    this.text += words;
    this.say("writing");
    this.drawing ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.drawing = undefined;
    this.body.replaceChildren(...rendered(this.text));
  }

  say(doing) {
    if (this.liveText.textContent !== doing) this.liveText.textContent = doing;
  }

  step(event) {
    if (event.type === "recalled_memories") this.recalled(event.items);
    if (event.type === "planned") this.planned(event.decision.chosen);
    if (event.type === "tool_called") this.say(`using ${event.call.name}`);
    if (event.type === "handed_over") this.say(`continuing on ${event.handover.to === "local" ? "this machine" : event.handover.to}`);
    if (event.type === "governed" && event.reasons.length) this.say(event.reasons[0]);
    if (event.type === "tool_returned") this.returned(event);
  }

  recalled(items) {
    for (const [found, text] of items) this.texts.set(found.id, text);
    if (items.length) this.say(`recalled ${plural(items.length, "memory", "memories")}`);
  }

  planned(chosen) {
    const place = chosen.peer ? `on ${chosen.peer}` : "on this machine";
    this.say(`reading ${place}, first word expected after ${seconds(chosen.ttft_s)}`);
  }

  returned({ call, result, is_error: isError }) {
    const line = el("li", { "data-bad": isError }, el("code", {}, call.name), el("span", { class: "result" }, result));
    line.title = call.arguments;
    this.steps.append(line);
    this.say("reading the result");
  }

  finish() {
    this.end();
    if (this.report) this.answer.append(reportPanel(this.report, { texts: this.texts, tokens: this.tokens }));
  }

  stopped() {
    this.end();
    this.answer.append(el("p", { class: "note" }, "Stopped. What was written is kept."));
  }

  failed(error) {
    this.end();
    this.hasFailed = true;
    const [what, ...rest] = error.message.split("; ");
    const retry = on(el("button", { type: "button", class: "quiet" }, "Try again"), "click", this.onRetry);
    this.answer.append(el("div", { class: "error", role: "alert" },
      el("p", {}, el("strong", {}, sentence(what)), rest.length > 0 && ` ${sentence(rest.join("; "))}`), retry));
  }

  end() {
    clearInterval(this.clock);
    if (this.drawing) cancelAnimationFrame(this.drawing);
    this.draw();
    this.live.remove();
    this.answer.setAttribute("aria-busy", "false");
  }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.?$/, ".")}`;
