// Curves over steps, drawn like those of the report (pipeline/report/drawing/curves.py).

import { niceTicks } from "./chart.js";
import { s } from "./dom.js";
import { plain, short } from "./format.js";

const LEFT = 52;
const RIGHT = 12;
const TOP = 26;
const BOTTOM = 22;
const LOG_ABOVE = 30; // an axis is logarithmic if its highest value is more than this many times the lowest

/**
 * Draws an SVG of `width` × `height` pixels. `lines`: [{name, points: [[step, value]]}], where the name is the
 * CSS class. `dots`: [{name, step, value, label}]. `marks`: [{step, label}], dashed lines. `floor` is the value
 * at which the axis begins; `words` formats a value.
 */
export function curveChart({ title, name, width, height, total, lines, ...rest }) {
  const { dots = [], marks = [], floor, words = named, description = title } = rest;
  const drawn = lines.map((line) => ({ ...line, points: line.points.filter(([, y]) => Number.isFinite(y)) }));
  const shown = dots.filter(({ value }) => Number.isFinite(value));
  const values = [
    ...drawn.flatMap(({ points }) => points.map(([, y]) => y)),
    ...shown.map(({ value }) => value),
  ];
  const [bottom, inner] = [height - BOTTOM, height - BOTTOM - TOP];
  const { place, ticks } = axis(values, floor, inner > 100 ? 4 : 2);
  const x = (step) => round(LEFT + (step / Math.max(total, 1)) * (width - LEFT - RIGHT));
  const y = (value) => round(bottom - place(value) * inner);
  const steps = niceTicks(total, width > 500 ? 8 : 4).filter((step) => step <= total && Number.isInteger(step));
  return s(
    "svg",
    {
      class: "curves",
      "data-panel": name,
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": description,
    },
    s("text", { class: "title", x: 0, y: 13 }, title),
    ticks.map((value) => [
      s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      s("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, words(value)),
    ]),
    steps.map((step) => s("text", { x: x(step), y: bottom + 16, "text-anchor": "middle" }, named(step))),
    marks.map(({ step, label }) =>
      s(
        "line",
        { class: "reference", x1: x(step), x2: x(step), y1: TOP, y2: bottom },
        s("title", null, label),
      ),
    ),
    drawn.map((line) => s("path", { class: line.name, d: path(line.points, x, y) })),
    shown.map((dot) =>
      s(
        "circle",
        { class: dot.name, cx: x(dot.step), cy: y(dot.value), r: 3.5 },
        s("title", null, dot.label),
      ),
    ),
  );
}

/** Returns {place, ticks}: a function from a value to its place in [0, 1] on the axis, and the labelled values. */
export function axis(values, floor, wanted) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (low > high) [low, high] = [0, 1];
  if (floor === undefined && low > 0 && high / low > LOG_ABOVE) return logarithmic(low, high);
  const bottom = floor ?? low;
  const span = high - bottom || Math.abs(high) || 1;
  const size = niceTicks(span, wanted)[1];
  const [first, last] = [Math.floor(bottom / size + 1e-9), Math.ceil((bottom + span) / size - 1e-9)];
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * size).toPrecision(12)));
  return { place: (value) => (value - ticks[0]) / (ticks.at(-1) - ticks[0]), ticks };
}

function logarithmic(low, high) {
  const [start, end] = [Math.log10(low), Math.log10(high)];
  const factors = end - start > 2 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(start); power <= Math.ceil(end); power += 1)
    for (const factor of factors) ticks.push(Number((factor * 10 ** power).toPrecision(12)));
  return {
    place: (value) => (Math.log10(Math.max(value, low)) - start) / (end - start),
    ticks: ticks.filter((value) => value >= low && value <= high),
  };
}

function path(points, x, y) {
  return points.map(([step, value], i) => `${i ? "L" : "M"}${x(step)} ${y(value)}`).join("");
}

function named(value) {
  return value >= 10_000 ? short(value) : plain(value);
}

function round(value) {
  return Math.round(value * 10) / 10;
}
