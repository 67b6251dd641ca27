// Measured values and sparsity per block, drawn like in the report (pipeline/report/drawing/block_chart.py).

import { s } from "./dom.js";
import { plain } from "./format.js";

const WIDTH = 760;
const LEFT = 52;
const RIGHT = 8;
const PANEL = 150;
const TOP = 26;
const GAP = 44;
const BOTTOM = 34;
const MAX_LABELS = 16;

/** Draws an SVG from a report's `plan`, `sparsity` (per linear) and `measurements` (or null). */
export function blockChart({ plan, sparsity, measurements }) {
  const planned = plan.blocks.map(target);
  const achieved = perBlock(sparsity.linears, planned.length);
  const panels = [];
  let top = TOP;
  if (measurements) {
    panels.push(panel("measured", measurements.title, measurements.blocks, { top }));
    top += PANEL + GAP;
  }
  const title = "Sparsity: fraction of zeros in the block's linears";
  panels.push(panel("sparsity", title, achieved, { top, planned, asked: plan.asked }));
  const height = top + PANEL + BOTTOM;
  return s(
    "svg",
    {
      class: "chart",
      viewBox: `0 0 ${WIDTH} ${height}`,
      role: "img",
      "aria-label": described(achieved, measurements),
    },
    panels,
    s("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: height - 4, "text-anchor": "middle" }, "block"),
  );
}

/** The sparsity of a pattern. */
export function target(pattern) {
  return pattern.kind === "nm" ? 1 - pattern.keep / pattern.group : pattern.sparsity;
}

/** Round values from 0 to at least `maximum`. */
export function niceTicks(maximum, wanted = 4) {
  if (maximum <= 0) return [0, 1];
  const raw = maximum / wanted;
  const magnitude = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 5, 10].map((factor) => factor * magnitude).find((one) => one >= raw * (1 - 1e-9));
  const steps = Math.ceil(maximum / size - 1e-9);
  return Array.from({ length: steps + 1 }, (_, step) => Number((step * size).toPrecision(12)));
}

function perBlock(linears, blocks) {
  const zeros = new Array(blocks).fill(0);
  const weights = new Array(blocks).fill(0);
  for (const linear of linears) {
    zeros[linear.block] += linear.zeros;
    weights[linear.block] += linear.weights;
  }
  return zeros.map((count, block) => (weights[block] ? count / weights[block] : 0));
}

function panel(name, title, values, { top, planned, asked }) {
  const bottom = top + PANEL;
  const ticks = niceTicks(Math.max(...values, ...(planned ?? []), asked ?? 0));
  const y = (value) => bottom - (value / ticks.at(-1)) * PANEL;
  const slot = Math.min((WIDTH - LEFT - RIGHT) / Math.max(values.length, 1), 60);
  const center = (block) => LEFT + (block + 0.5) * slot;
  const step = labelStep(values.length);
  const line = (className, at, label) =>
    s(
      "line",
      { class: className, x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at },
      label ? s("title", null, label) : null,
    );
  return s(
    "g",
    { class: "panel" },
    s("text", { class: "title", x: LEFT, y: top - 10 }, title),
    ticks.map((value) => [
      line("grid", y(value)),
      s("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, plain(value)),
    ]),
    values.map((value, block) => {
      const [x, width] = [center(block) - slot * 0.4, slot * 0.8];
      const label = `block ${block}: ${plain(value, 4)}${planned ? ` (planned ${plain(planned[block], 4)})` : ""}`;
      const bar = s(
        "rect",
        { class: name, x, y: y(value), width, height: bottom - y(value) },
        s("title", null, label),
      );
      if (!planned) return bar;
      const at = y(planned[block]);
      return [bar, s("line", { class: "mark", x1: x, x2: x + width, y1: at, y2: at })];
    }),
    asked === undefined ? null : line("reference", y(asked), `asked ${plain(asked)}`),
    values.map((_, block) =>
      block % step ? null : s("text", { x: center(block), y: bottom + 15, "text-anchor": "middle" }, block),
    ),
  );
}

function labelStep(blocks) {
  return (
    [1, 2, 5, 10, 20, 50, 100].find((step) => blocks / step <= MAX_LABELS) ??
    Math.max(Math.floor(blocks / MAX_LABELS), 1)
  );
}

function described(achieved, measurements) {
  const range = (values, digits) =>
    `${Math.min(...values).toFixed(digits)} to ${Math.max(...values).toFixed(digits)}`;
  let words = `${achieved.length} blocks; sparsity from ${range(achieved, 3)}`;
  if (measurements) words += `; measured from ${range(measurements.blocks, 4)}`;
  return words;
}
