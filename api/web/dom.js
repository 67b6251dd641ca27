// Elements without markup: data from the API enters the page as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element. `props` are attributes (null, undefined and false are left out), or functions that listen. */
export function h(tag, props, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** Makes an SVG element, like h(). */
export function s(tag, props, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

/** Set an attribute, or remove it (null, undefined, false). An equal value is not written again. */
export function attr(node, name, value) {
  if (value === null || value === undefined || value === false) {
    node.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (name === "href" && !/^(#|\/(?![/\\]))/.test(text)) throw new Error(`not an address of ours: ${text}`);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

/** Set the text of an element. The same text is not written again, so that selections stay. */
export function say(node, text) {
  const wanted = String(text ?? "");
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** Show or hide an element. */
export function show(node, shown) {
  node.hidden = !shown;
}

/** Replace all children of an element. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter(isThere).map(asNode));
}

/** Like fill, but only when `value` differs from the last time. */
export function fillIfNew(node, value, make) {
  const mark = JSON.stringify(value) ?? "";
  if (node.filledWith === mark) return;
  node.filledWith = mark;
  fill(node, make());
}

/**
 * Keeps one child of `parent` for each of `items`, in order. A child is made once for each key, then updated in
 * place. `make(item)` returns {node, update(item)}; update is called at once, too.
 */
export function keyed(parent, items, key, make) {
  const before = (parent.keyedParts ??= new Map());
  const after = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const id = key(item);
    const part = before.get(id) ?? make(item);
    part.update(item);
    after.set(id, part);
    if (part.node === place) place = place.nextSibling;
    else parent.insertBefore(part.node, place);
  }
  for (const [id, part] of before) if (!after.has(id)) part.node.remove();
  parent.keyedParts = after;
}

function filled(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else attr(node, name, value);
  }
  fill(node, ...children);
  return node;
}

function isThere(child) {
  return child !== null && child !== undefined && child !== false;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}
