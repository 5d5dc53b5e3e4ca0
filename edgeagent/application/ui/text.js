// A small, safe part of Markdown: paragraphs, lists, headings, fenced and inline code, bold. Everything else stays text.

import { el } from "./dom.js";

const FENCE = /^\s*```\s*([\w+-]*)\s*$/;
const ITEM = /^\s*(?:[-*•]|(\d{1,9})[.)])\s+(.*)$/;
const HEADING = /^#{1,4}\s+(.*)$/;

export function rendered(text) {
  const blocks = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length;) {
    const [block, next] = blockAt(lines, at);
    if (block) blocks.push(block);
    at = next;
  }
  return blocks;
}

function blockAt(lines, at) {
  const line = lines[at];
  if (FENCE.test(line)) return codeBlock(lines, at);
  if (!line.trim()) return [null, at + 1];
  if (ITEM.test(line)) return list(lines, at);
  if (HEADING.test(line)) return [el("h3", {}, inline(line.match(HEADING)[1])), at + 1];
  return paragraph(lines, at);
}

function codeBlock(lines, at) {
  const language = lines[at].match(FENCE)[1];
  let end = at + 1;
  while (end < lines.length && !FENCE.test(lines[end])) end += 1;
  const code = el("code", {}, lines.slice(at + 1, end).join("\n"));
  return [el("pre", { tabindex: "0", "data-language": language || null }, code), end + 1];
}

function list(lines, at) {
  const start = lines[at].match(ITEM)[1];
  const items = [];
  while (at < lines.length && ITEM.test(lines[at])) {
    items.push(el("li", {}, inline(lines[at].match(ITEM)[2])));
    at += 1;
  }
  return [start ? el("ol", { start }, items) : el("ul", {}, items), at];
}

function paragraph(lines, at) {
  const nodes = [];
  while (at < lines.length && lines[at].trim() && !FENCE.test(lines[at]) && !ITEM.test(lines[at])) {
    if (nodes.length) nodes.push(el("br"));
    nodes.push(...inline(lines[at]));
    at += 1;
  }
  return [el("p", {}, nodes), at];
}

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).filter(Boolean).map((part) => {
    if (part.length > 2 && part.startsWith("`") && part.endsWith("`")) return el("code", {}, part.slice(1, -1));
    if (part.length > 4 && part.startsWith("**") && part.endsWith("**")) return el("strong", {}, part.slice(2, -2));
    return part;
  });
}
