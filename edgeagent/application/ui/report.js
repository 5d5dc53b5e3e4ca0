// What happened, under an answer: one line when closed, the whole account when open.

import { el, on, share } from "./dom.js";
import { bytes, count, difference, joules, plural, rate, seconds } from "./units.js";

const HERE = "this machine";
const where = (place) => (!place || place === "local" ? HERE : place);

// `extras`: { texts: Map of memory id to text, tokens: output tokens }.
export function reportPanel(report, extras) {
  const sections = [
    section("Why this way", why(report), "wide"),
    section("Where it ran", path(report), "wide"),
    section("Predicted and measured", costs(report), "wide"),
    section("Prompt", prompt(report.reduction)),
    section("Memory", memory(report.memory, extras.texts)),
    report.notes.length > 0 && section("Notes", notes(report), "wide"),
    report.handover.length > 0 && section("Handovers", handovers(report, extras.tokens), "wide"),
    report.decision && section("Plans considered", candidates(report.decision), "wide"),
    fineprint(report),
  ];
  return el("details", { class: "report" }, summary(report), el("div", { class: "report-body" }, sections));
}

function summary(report) {
  const { measured, reduction } = report;
  const dropped = reduction.tokens_in - reduction.tokens_kept;
  const facts = [
    report.peer ? `with ${report.peer}` : HERE,
    measured.ttft_s !== null && `first word ${seconds(measured.ttft_s)}`,
    measured.tpot_s && rate(1 / measured.tpot_s),
    report.memory.recalled.length > 0 && plural(report.memory.recalled.length, "memory", "memories"),
    dropped > 0 && `${count(dropped)} of ${count(reduction.tokens_in)} tokens left out`,
  ].filter(Boolean);
  return el("summary", {},
    el("span", { class: "tag", "data-place": report.peer ? "peer" : "here" }, report.plan),
    el("span", { class: "facts" }, facts.map((fact) => el("span", {}, fact))),
    el("span", { class: "sr" }, "Show what happened"));
}

function section(title, body, width = "half") {
  return el("section", { class: width }, el("h3", {}, title), body);
}

function why(report) {
  return el("div", {},
    el("p", { class: "why" }, report.why),
    el("p", { class: "note" }, `${report.model}, variant ${report.variant}`));
}

function notes({ notes: told }) {
  return el("ul", { class: "list" }, told.map((note) => el("li", {}, el("span", {}, note))));
}

function path(report) {
  const { measured } = report;
  if (!report.peer) {
    return el("div", { class: "path" },
      node("here", HERE, "reads the prompt, writes the answer"),
      el("p", { class: "note" }, "Nothing left this machine."));
  }
  return el("div", { class: "path" },
    node("here", HERE, report.plan === "remote" ? "shows the answer" : "writes the answer"),
    el("div", { class: "link" },
      el("span", { class: "up" }, `${bytes(measured.up_bytes)} up`),
      el("span", { class: "down" }, `${bytes(measured.down_bytes)} down`)),
    node("peer", peers(report), report.plan === "remote" ? "writes the answer" : "reads the prompt"));
}

/** All peers of a plan, the second behind the first. */
function peers({ peer, stages }) {
  return stages.map((stage) => stage.peer).filter(Boolean).join(" and ") || peer;
}

function held({ peer, begin, end }) {
  return `${begin} to ${end - 1} ${peer ? `at ${peer}` : "here"}`;
}

function node(place, name, role) {
  return el("div", { class: "node", "data-place": place }, el("strong", {}, name), el("span", {}, role));
}

const METRICS = [
  ["First word", "ttft_s", seconds],
  ["Each token", "tpot_s", seconds],
  ["Sent", "up_bytes", bytes],
  ["Received", "down_bytes", bytes],
  ["Energy", "energy_j", joules],
];

function costs({ predicted, measured }) {
  const rows = METRICS.filter(([, key]) => predicted[key] || measured[key]);
  const head = el("tr", {},
    el("th", { scope: "col" }, el("span", { class: "sr" }, "figure")),
    el("td", { "aria-hidden": "true" }),
    el("th", { scope: "col", class: "key-tick" }, "predicted"),
    el("th", { scope: "col", class: "key-bar" }, "measured"),
    el("th", { scope: "col" }, "off by"));
  return el("table", { class: "costs" }, el("thead", {}, head), el("tbody", {}, rows.map(([name, key, unit]) => {
    const [p, m] = [predicted[key], measured[key]];
    return el("tr", {},
      el("th", { scope: "row" }, name),
      el("td", { class: "gauge", "aria-hidden": "true" }, gauge(p, m)),
      el("td", {}, unit(p)),
      el("td", { class: "measured" }, unit(m)),
      el("td", {}, difference(p, m)));
  })));
}

// A bullet graph: the bar is what was measured, the tick what was predicted.
function gauge(predicted, measured) {
  const top = 1.2 * Math.max(predicted ?? 0, measured ?? 0) || 1;
  return el("div", { class: "bullet" },
    share(el("i", { class: "bar" }), (measured ?? 0) / top),
    predicted !== null && share(el("i", { class: "tick" }), predicted / top));
}

function prompt(reduction) {
  const { tokens_in: all, tokens_kept: kept, layout } = reduction;
  const moved = layout && el("p", { class: "note" }, `${plural(layout.lines, "changing line")} read last (${plural(layout.tokens, "token")}).`);
  if (all === kept) return el("div", {}, el("p", { class: "note" }, `All ${plural(kept, "token")} were read.`), moved);
  return el("div", {},
    el("p", { class: "figure" }, el("strong", {}, count(kept)), ` of ${plural(all, "token")} read, level ${reduction.level}`),
    el("div", { class: "meter", "aria-hidden": "true" }, share(el("i"), kept / all)),
    el("ul", { class: "list" }, reduction.dropped.map((drop) =>
      el("li", {}, el("span", {}, `${drop.source} `, el("small", {}, drop.reason)), el("b", {}, `\u2212${count(drop.tokens)}`)))),
    reduction.order.length > 0 && el("p", { class: "note" }, `In the prompt: ${reduction.order.join(", ")}. What matters most stands next to the question.`),
    moved);
}

function memory({ recalled, written }, texts) {
  if (!recalled.length && !written.length) return el("p", { class: "note" }, "Nothing was recalled or written.");
  return el("ul", { class: "list" },
    recalled.map(({ id, score }) =>
      el("li", {}, el("span", {}, texts.get(id) ?? "", " ", el("small", { class: "id" }, id)), el("b", {}, score.toFixed(2)))),
    written.map((id) => el("li", {}, el("span", {}, "Written ", el("small", { class: "id" }, id)), el("b", {}, "new"))));
}

function handovers({ handover }, tokens) {
  const ends = [...handover.map((h) => h.at_token), Math.max(tokens, handover.at(-1).at_token)];
  const places = [handover[0].from, ...handover.map((h) => h.to)];
  const strip = el("div", { class: "strip", "aria-hidden": "true" }, places.map((place, at) => {
    const length = ends[at] - (ends[at - 1] ?? 0);
    return share(el("i", { "data-place": where(place) === HERE ? "here" : "peer" }), length / Math.max(1, tokens));
  }));
  return el("div", {}, strip, el("ul", { class: "list" }, handover.map((h) =>
    el("li", {}, el("span", {}, `${where(h.from)} to ${where(h.to)} `, el("small", {}, h.reason)),
      el("b", {}, `after token ${count(h.at_token)}`)))));
}

const COLUMNS = ["Plan", "Model", "First word", "Each token", "Total", "Sent", "Received"];

function candidates(decision) {
  const chosen = JSON.stringify(decision.chosen);
  const rows = decision.candidates.map((c) => candidateRow(c, JSON.stringify(c) === chosen));
  const table = el("table", {},
    el("caption", { class: "sr" }, "Every plan that was weighed"),
    el("thead", {}, el("tr", {}, COLUMNS.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Plans considered" }, table);
}

function candidateRow(c, isChosen) {
  const costs = [seconds(c.ttft_s), seconds(c.tpot_s), seconds(c.total_s), bytes(c.up_bytes), bytes(c.down_bytes)];
  const verdict = isChosen ? "chosen" : c.rejected ? `rejected: ${c.rejected}` : "possible";
  return el("tr", { class: isChosen ? "chosen" : c.rejected ? "rejected" : null },
    el("th", { scope: "row" }, c.plan, c.peer && ` with ${peers(c)}`, el("small", {}, verdict)),
    el("td", {}, c.model, el("small", {}, `${c.variant}, reduction ${c.reduction}`)),
    costs.map((cost) => el("td", {}, cost)));
}

function fineprint(report) {
  const facts = [`seed ${report.seed}`, report.k !== null && `layers ${report.stages.map(held).join(", ")}`];
  const copy = on(el("button", { type: "button", class: "quiet" }, "Copy as JSON"), "click", async () => {
    await navigator.clipboard.writeText(JSON.stringify(report, null, 2));
    copy.textContent = "Copied";
  });
  return el("footer", { class: "wide fine" }, el("span", {}, facts.filter(Boolean).join(" · ")), copy);
}
