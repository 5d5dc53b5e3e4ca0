// Wires the page: the composer, the conversation, the machine's plate and the token gate.

import { ApiError, getJson, setToken, streamed } from "./api.js";
import { byId, el, on } from "./dom.js";
import { memories } from "./memories.js";
import { Turn } from "./turn.js";
import { bytes, gibibytes, rate } from "./units.js";

const MAX_ATTACHED = 3_000_000; // characters; the daemon refuses bodies over 4 MiB
let talk = []; // the messages so far; a new chat gets a new list, so that a late answer cannot end up in it
let attached = [];
let running = null; // the AbortController of the answer under way

const question = byId("question");
const announce = (text) => { byId("announce").textContent = text; };

// --- asking -----------------------------------------------------------------

function request(text, documents, before) {
  const number = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));
  return {
    model: byId("model").value || undefined,
    messages: [...before, { role: "user", content: text }],
    max_tokens: number("max-tokens"),
    temperature: number("temperature"),
    edgeagent: {
      plan: byId("plan").value,
      reduce: byId("reduce").value,
      policy: byId("policy").value || null,
      memory: byId("memory").checked,
      agent: true,
      priority: "interactive",
      events: true,
      documents,
    },
  };
}

async function ask(text, documents) {
  const before = talk;
  const turn = new Turn(text, documents, () => { turn.node.remove(); ask(text, documents); });
  show(turn.node);
  setRunning(new AbortController());
  announce("Working on the answer");
  try {
    for await (const chunk of streamed(request(text, documents, before), running.signal)) {
      const follow = isAtEnd();
      turn.add(chunk);
      if (follow) scrollToEnd();
    }
    turn.finish();
    announce(`Answered: ${turn.text}`);
  } catch (failure) {
    settle(turn, failure);
  } finally {
    setRunning(null);
  }
  if (turn.isKept) before.push({ role: "user", content: text }, { role: "assistant", content: turn.text });
  scrollToEnd();
}

function settle(turn, failure) {
  if (failure.name === "AbortError") {
    turn.stopped();
    announce("Stopped");
  } else if (failure instanceof ApiError) {
    turn.failed(failure);
    if (failure.status === 401) openGate(failure.message);
  } else {
    turn.failed(new Error("the page failed; reload it"));
    throw failure;
  }
}

function setRunning(controller) {
  running = controller;
  const send = byId("send");
  send.classList.toggle("is-running", Boolean(controller));
  send.setAttribute("aria-label", controller ? "Stop" : "Send");
}

function submit() {
  const text = question.value.trim();
  if (running || !text) return;
  const documents = attached;
  question.value = "";
  setAttached([]);
  fit();
  ask(text, documents);
}

function stop() {
  running?.abort();
}

// --- the conversation -------------------------------------------------------

function show(node) {
  byId("welcome").hidden = true;
  byId("new-chat").hidden = false;
  byId("talk").append(node);
  scrollToEnd();
}

const isAtEnd = () => document.documentElement.scrollHeight - window.scrollY - window.innerHeight < 80;
const scrollToEnd = () => window.scrollTo({ top: document.documentElement.scrollHeight });

function newChat() {
  stop();
  talk = [];
  byId("talk").replaceChildren();
  byId("welcome").hidden = false;
  byId("new-chat").hidden = true;
  question.focus();
}

// --- the composer -----------------------------------------------------------

function fit() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight, 240)}px`;
}

async function attach(files) {
  const texts = await Promise.all([...files].map(async (file) => ({ source: file.name, text: await file.text() })));
  const all = [...attached, ...texts];
  if (all.reduce((size, file) => size + file.text.length, 0) > MAX_ATTACHED) {
    announce("These texts are too long");
    byId("files").replaceChildren(el("li", { class: "problem" }, "Too long: at most 3 MB of text can be attached."));
    byId("files").hidden = false;
    return;
  }
  setAttached(all);
}

function setAttached(files) {
  attached = files;
  byId("file").value = "";
  byId("files").hidden = files.length === 0;
  byId("files").replaceChildren(...files.map((file, at) => {
    const remove = el("button", { type: "button", "aria-label": `Remove ${file.source}` }, "×");
    on(remove, "click", () => setAttached(attached.filter((_, place) => place !== at)));
    return el("li", {}, `${file.source} `, el("small", {}, bytes(file.text.length)), remove);
  }));
}

function summarizeOptions() {
  const plan = byId("plan").value;
  const parts = [plan === "auto" ? "automatic plan" : `plan ${plan}`];
  if (byId("reduce").value !== "auto") parts.push(byId("reduce").value);
  if (byId("policy").value) parts.push(byId("policy").value);
  if (!byId("memory").checked) parts.push("no memory");
  byId("options-summary").textContent = parts.join(" · ");
}

function toggleOptions() {
  const options = byId("options");
  options.hidden = !options.hidden;
  byId("options-toggle").setAttribute("aria-expanded", String(!options.hidden));
}

// --- the machine ------------------------------------------------------------

function setState(state, text) {
  byId("state").dataset.state = state;
  byId("state-text").textContent = text;
}

async function look() {
  try {
    const { ready, why } = await getJson("/ready");
    setState(ready ? "ready" : "waiting", ready ? "ready" : why);
  } catch {
    setState("lost", "not reachable");
  }
}

async function introduce() {
  try {
    const [models, profile] = await Promise.all([getJson("/v1/models"), getJson("/api/edge/profile")]);
    byId("model").replaceChildren(...models.data.map((m) => el("option", { value: m.id }, nameOf(m))));
    byId("plate").replaceChildren(...plate(profile, models.data[0]).map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  } catch (failure) {
    if (failure.status === 401) openGate("");
    else if (!(failure instanceof ApiError)) throw failure;
  }
}

// A model that only some peer's server has comes without facts.
function nameOf(model) {
  return model.edgeagent?.name ?? model.id;
}

function plate(profile, model) {
  const rates = Object.entries(profile.rates).find(([name]) => name.startsWith(`${model?.id}/`))?.[1];
  return [
    ["Board", profile.board],
    ["Processor", `${profile.cpu.model}, ${profile.cpu.cores} cores`],
    ["Memory", `${gibibytes(profile.memory.available_bytes)} free of ${gibibytes(profile.memory.total_bytes)}`],
    ["Model", model ? nameOf(model) : "none yet"],
    ["Reads", rates ? rate(rates.prefill_tok_s) : "not measured yet"],
    ["Writes", rates ? rate(rates.decode_tok_s) : "not measured yet"],
  ];
}

// --- the gate ---------------------------------------------------------------

function openGate(problem) {
  byId("gate-problem").textContent = problem;
  if (!byId("gate").open) byId("gate").showModal();
}

function enter() {
  setToken(byId("token").value.trim());
  byId("token").value = "";
  introduce();
}

// --- start ------------------------------------------------------------------

on(byId("composer"), "submit", (event) => {
  event.preventDefault();
  if (running) stop();
  else submit();
});
on(question, "keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
on(document, "keydown", (event) => { if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop(); });
on(question, "input", fit);
on(byId("attach"), "click", () => byId("file").click());
on(byId("file"), "change", (event) => attach(event.target.files));
on(byId("options-toggle"), "click", toggleOptions);
on(byId("options"), "change", summarizeOptions);
on(byId("new-chat"), "click", newChat);
on(byId("gate-form"), "submit", enter);
on(byId("examples"), "click", (event) => {
  if (event.target.tagName !== "BUTTON") return;
  question.value = event.target.textContent;
  submit();
});

memories({ refused: (failure) => openGate(failure.message) });
look();
introduce();
setInterval(look, 15_000);
question.focus();
