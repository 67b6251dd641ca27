// The history of a schedule: every firing with its job, its outcome and the figures of its gates.

import { get } from "../api.js";
import { fillIfNew, h, keyed, say, show } from "../dom.js";
import { plain } from "../format.js";
import { setTime, timeNode } from "../live.js";
import { chip, setChip } from "../status.js";

const SIZE = 20;
const COLUMNS = ["When", "Cause", "Source", "Job", "Outcome", "Gates"];

/** Makes the table for the schedule at `path`. Returns {node, refresh(signal)}. */
export function firingTable(path) {
  const rows = h("tbody");
  const older = new Map(); // id → firing on older pages that were fetched
  let newest = [];
  let next = null;
  const more = h("button", { type: "button", click: fetchOlder, hidden: true }, "More");
  const none = h("p", { class: "calm-message", hidden: true }, "It has not fired yet.");
  const heads = COLUMNS.map((name) => h("th", { scope: "col" }, name));
  const table = h("table", { class: "list firings" }, h("thead", null, h("tr", null, heads)), rows);
  const node = h(
    "section",
    { "aria-labelledby": "firings-title" },
    h("h2", { id: "firings-title" }, "Firings"),
    none,
    table,
    more,
  );

  async function refresh(signal) {
    const page = await get(`${path}/firings?limit=${SIZE}`, { signal });
    if (older.size > 0) for (const firing of newest) older.set(firing.id, firing); // some may leave the newest page
    newest = page.data;
    if (older.size === 0) next = page.has_more ? page.next : null;
    draw();
  }

  async function fetchOlder() {
    more.disabled = true;
    try {
      const page = await get(`${path}/firings?limit=${SIZE}&after=${encodeURIComponent(next)}`);
      for (const firing of page.data) older.set(firing.id, firing);
      next = page.has_more ? page.next : null;
    } finally {
      more.disabled = false;
    }
    draw();
  }

  function draw() {
    for (const firing of newest) older.delete(firing.id);
    const all = [...newest, ...older.values()].sort((a, b) => b.id - a.id);
    keyed(rows, all, (firing) => firing.id, row);
    show(table, all.length > 0);
    show(none, all.length === 0);
    show(more, next !== null);
  }

  return { node, refresh };
}

function row(firing) {
  const [at, outcome, reason, gates] = [
    timeNode(firing.at),
    chip(firing.outcome),
    h("div", { class: "soft" }),
    h("div"),
  ];
  const job = h("span");
  const node = h(
    "tr",
    { "data-firing": firing.id },
    cell("When", at),
    cell("Cause", firing.cause),
    cell("Source", firing.source ? h("span", { class: "source" }, firing.source) : null),
    cell("Job", job),
    cell("Outcome", outcome, reason),
    cell("Gates", gates),
  );

  function update(fresh) {
    setTime(at, fresh.at);
    setChip(outcome, fresh.outcome);
    say(reason, fresh.reason ?? "");
    fillIfNew(job, fresh.job, () =>
      fresh.job ? h("a", { class: "whole", href: `#/jobs/${fresh.job}` }, fresh.job) : [],
    );
    fillIfNew(gates, fresh.gates, () => fresh.gates.map(verdict));
  }

  return { node, update };
}

/** A gate's verdict, such as `✓ perplexity <= 1.2 * dense`, with its figures. */
function verdict({ gate, final, dense, bound, passed, reason }) {
  const figures = [
    final !== null && `got ${plain(final)}`,
    dense !== null && `dense ${plain(dense)}`,
    bound !== null && `bound ${plain(bound)}`,
  ].filter(Boolean);
  return h(
    "div",
    { class: "verdict", title: reason ?? null },
    chip(passed ? "passed" : "failed"),
    h("code", null, gate),
    h("span", { class: "soft" }, figures.join(", ") || reason || "not measured"),
  );
}

function cell(name, ...children) {
  return h("td", { "data-name": name }, children);
}
