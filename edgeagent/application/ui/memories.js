// What is remembered: a list to look through, to correct and to forget.

import { getJson, send } from "./api.js";
import { byId, el, on } from "./dom.js";
import { plural } from "./units.js";

const PATH = "/api/edge/memory";
const MAX_SHOWN = 200;
const KINDS = { note: "noted", document: "from a file", turn: "said", event: "happened", summary: "summary" };

// `refused` takes an ApiError for want of a token. What happened is told inside the dialog: beside it nothing is read out.
export function memories({ refused }) {
  const dialog = byId("memories");
  const list = byId("memory-list");
  let newest = 0; // a slow answer must not replace a later one

  async function look() {
    const own = ++newest;
    const query = byId("memory-query").value.trim();
    tell("");
    try {
      const found = await getJson(`${PATH}?${new URLSearchParams(query ? { query, limit: 50 } : { limit: MAX_SHOWN })}`);
      if (own === newest) show(found.memories, query);
    } catch (failure) {
      if (own === newest) fail(failure, tell);
    }
  }

  function show(found, query) {
    list.replaceChildren(...found.map(item));
    const most = query ? "" : found.length === MAX_SHOWN ? ": the newest; search for others" : "";
    const told = found.length ? `${plural(found.length, "memory", "memories")}${most}` : query ? "Nothing found." : "Nothing is remembered yet.";
    byId("memory-count").textContent = told;
  }

  // What is no longer remembered, without a new look: that would take the focus away.
  function drop(ids, done) {
    for (const node of [...list.children]) if (ids.includes(node.dataset.id)) node.remove();
    byId("memory-count").textContent = `${done}. ${plural(list.children.length, "memory", "memories")}`;
  }

  const tell = (problem) => { byId("memory-problem").textContent = problem; };

  function fail(failure, told) {
    if (failure.status === 401) {
      dialog.close();
      refused(failure);
    } else if (failure.status === undefined) throw failure;
    else told(failure.message);
  }

  function item(memory) {
    const node = el("li", { "data-id": memory.id });
    read(node, memory);
    return node;
  }

  // The memory as it is, with what can be done about it.
  function read(node, memory) {
    const correct = el("button", { type: "button", class: "quiet", "aria-label": `Correct: ${start(memory)}` }, "Correct");
    const forget = el("button", { type: "button", class: "quiet", "aria-label": `Forget: ${start(memory)}` }, "Forget");
    on(correct, "click", () => edit(node, memory));
    on(forget, "click", () => confirm(node, memory));
    node.replaceChildren(
      el("p", { class: "remembered" }, memory.text),
      el("p", { class: "note" }, about(memory)),
      el("p", { class: "row" }, !memory.record && correct, forget));
    return { correct, forget };
  }

  // A fact is corrected by a newer one, not in place: there is no such button on it.
  function edit(node, memory) {
    const text = el("textarea", { rows: 3, required: true, "aria-label": "What it should say" });
    text.value = memory.text;
    const problem = el("p", { class: "problem", role: "alert" });
    const form = el("form", {}, text, problem, el("p", { class: "row" },
      el("button", { type: "submit", class: "quiet" }, "Save"),
      cancel("Cancel", () => read(node, memory).correct.focus())));
    on(form, "submit", async (event) => {
      event.preventDefault();
      await act(node, problem, async () => {
        const { summaries } = await send("PUT", `${PATH}/${encodeURIComponent(memory.id)}`, { text: text.value });
        read(node, { ...memory, text: text.value.trim() }).correct.focus();
        drop(summaries, "Corrected");
      });
    });
    on(form, "keydown", (event) => { // Escape leaves the correction, not the list
      if (event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      read(node, memory).correct.focus();
    });
    node.replaceChildren(form);
    text.focus();
  }

  function confirm(node, memory) {
    const problem = el("p", { class: "problem", role: "alert" });
    const forget = el("button", { type: "button", class: "quiet danger" }, "Forget for good");
    const keep = cancel("Keep", () => read(node, memory).forget.focus());
    on(forget, "click", () => act(node, problem, async () => {
      const { summaries } = await send("DELETE", `${PATH}/${encodeURIComponent(memory.id)}`);
      drop(summaries, "Forgotten");
      const next = (node.nextElementSibling ?? node.previousElementSibling)?.querySelector("button");
      drop([memory.id], "Forgotten");
      (next ?? byId("memory-query")).focus();
    }));
    const question = el("p", { id: `forget-${memory.id}` }, "Forget this? It cannot be undone, and summaries that may tell of it go, too.");
    const group = el("div", { role: "group", "aria-labelledby": question.id }, question, problem, el("p", { class: "row" }, forget, keep));
    node.replaceChildren(el("p", { class: "remembered" }, memory.text), group);
    keep.focus();
  }

  // One thing at a time; what goes wrong is told where it was tried.
  async function act(node, problem, work) {
    problem.textContent = "";
    const buttons = [...node.querySelectorAll("button")];
    const pressed = document.activeElement;
    buttons.forEach((button) => { button.disabled = true; });
    try {
      await work();
    } catch (failure) {
      fail(failure, (told) => { problem.textContent = told; });
      buttons.forEach((button) => { button.disabled = false; });
      if (pressed !== document.body) pressed.focus(); // a button that is disabled loses it
    }
  }

  on(byId("memories-open"), "click", () => {
    dialog.showModal();
    look();
  });
  on(byId("memories-close"), "click", () => dialog.close());
  on(dialog, "close", () => { list.replaceChildren(); byId("memory-query").value = ""; });
  on(byId("memory-search"), "submit", (event) => {
    event.preventDefault();
    look();
  });
}

function cancel(label, back) {
  return on(el("button", { type: "button", class: "quiet" }, label), "click", back);
}

const start = (memory) => (memory.text.length > 60 ? `${memory.text.slice(0, 60)}…` : memory.text);

function about(memory) {
  const day = new Date(memory.created_at * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "long", year: "numeric" });
  const what = memory.conversation
    ? `summary of ${plural(memory.conversation.num_messages, "message")} of a conversation`
    : KINDS[memory.kind] ?? memory.kind;
  const until = memory.record?.valid_until ? "no longer holds" : null;
  return [what, day, memory.conversation ? null : memory.source || null, until].filter(Boolean).join(" · ");
}
