// Statuses are shown by word and shape, so that nobody depends on colour.

import { attr, h, s, say } from "./dom.js";

// The shapes are paths in a box of 16 × 16, drawn as lines.
const SHAPES = {
  ring: "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10",
  play: "M6 3.5l6 4.5-6 4.5z",
  check: "M3 8.5l3.5 3.5L13 4.5",
  again: "M12.5 5A5.5 5.5 0 1 0 13.5 8M13.2 2v3.4h-3.4",
  cross: "M4 4l8 8M12 4l-8 8",
  bar: "M3.5 8h9",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  clock: "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11M8 5v3.2l2 1.5",
};

// Status → [shape, tone]. Jobs, stages, firings, candidates and schedules share words.
const LOOKS = {
  queued: ["clock", "calm"],
  waiting: ["clock", "calm"],
  pending: ["ring", "calm"],
  running: ["play", "busy"],
  cancelling: ["bar", "warn"],
  cancelled: ["bar", "warn"],
  succeeded: ["check", "good"],
  cached: ["again", "good"],
  failed: ["cross", "bad"],
  promoted: ["check", "good"],
  passed: ["check", "good"],
  held: ["bar", "warn"],
  skipped: ["bar", "calm"],
  missed: ["bar", "calm"],
  ready: ["check", "good"],
  known: ["again", "calm"],
  settling: ["clock", "busy"],
  incomplete: ["ring", "calm"],
  unusable: ["cross", "bad"],
  active: ["play", "good"],
  paused: ["pause", "warn"],
};

export const ENDED = new Set(["succeeded", "failed", "cancelled"]);

/** The class of a status's tone: calm, busy, good, warn or bad. */
export function tone(status) {
  return (LOOKS[status] ?? ["ring", "calm"])[1];
}

/** The shape of a status alone, as an SVG of 16 × 16. */
export function icon(status) {
  const drawn = s(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" },
    s("path"),
  );
  setIcon(drawn, status);
  return drawn;
}

/** Set the shape of an icon. */
export function setIcon(drawn, status) {
  attr(drawn.firstChild, "d", SHAPES[(LOOKS[status] ?? ["ring"])[0]]);
}

/** An element with the shape and the word of a status. */
export function chip(status) {
  const node = h("span", { class: "chip" }, icon(status), h("span"));
  setChip(node, status);
  return node;
}

/** Set the status of a chip. */
export function setChip(node, status) {
  attr(node, "class", `chip ${tone(status)}`);
  setIcon(node.firstChild, status);
  say(node.lastChild, status);
}
