// Builds elements. Strings become text nodes, so nothing that a model, a memory or a peer says is ever parsed as HTML.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function on(node, event, handler) {
  node.addEventListener(event, handler);
  return node;
}

// Widths go through the CSS object model: the page's content policy forbids style attributes.
export function share(node, fraction) {
  node.style.setProperty("--share", String(Math.max(0, Math.min(1, fraction))));
  return node;
}
