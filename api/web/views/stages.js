// The stages of a job: the DAG, a line per stage with its progress, and the details of a chosen one.

import { attr, fillIfNew, h, keyed, say, show } from "../dom.js";
import { count, seconds } from "../format.js";
import { setDuration } from "../live.js";
import { Paces } from "../pace.js";
import { ENDED, icon, setIcon, tone } from "../status.js";
import { dagPicture } from "./dag_picture.js";
import { stageDetails } from "./stage_details.js";

const MOST_CELLS = 512;
const MOST_NAMED = 3;
const DONE = new Set(["succeeded", "cached"]);

/** Returns {node, update(job), see(event)}. */
export function stages() {
  const paces = new Paces();
  const finished = new Map(); // node → NodeResult, from its event
  const open = new Set(); // nodes that will still run
  let job = null;
  let chosen = null;

  const picture = dagPicture(choose);
  const details = h("div", {
    class: "stage-details",
    role: "region",
    "aria-label": "Details of a stage",
    "aria-live": "polite",
    hidden: true,
  });
  const rows = h("tbody");
  const heads = ["Stage", "Status", "Progress", "Took"].map((name) => h("th", { scope: "col" }, name));
  const table = h(
    "table",
    { class: "list stages" },
    h("caption", { class: "unseen" }, "Stages"),
    h("thead", null, h("tr", null, heads)),
    rows,
  );
  const waiting = h("p", { class: "calm-message" }, "The stages are known when the first attempt has begun.");
  const node = h(
    "section",
    { "aria-labelledby": "stages-title" },
    h("h2", { id: "stages-title" }, "Stages"),
    waiting,
    picture.node,
    details,
    table,
  );

  function choose(name) {
    chosen = chosen === name ? null : name;
    draw();
  }

  function update(fresh) {
    job = fresh;
    draw();
  }

  function see(event) {
    paces.see(event);
    if (event.body.type === "stage.finished") finished.set(event.body.result.node, event.body.result);
    if (event.body.type === "stage.finished" && event.body.result.node === chosen) draw();
  }

  function draw() {
    if (!job) return;
    show(waiting, job.stages.length === 0);
    show(table, job.stages.length > 0);
    open.clear();
    for (const stage of ENDED.has(job.status) ? [] : job.stages)
      if (!DONE.has(stage.status)) open.add(stage.node);
    picture.update(job.stages, chosen);
    keyed(
      rows,
      job.stages,
      (stage) => stage.node,
      (stage) => line(stage, { paces, open, choose }),
    );
    const stage = job.stages.find((one) => one.node === chosen);
    show(details, stage !== undefined);
    const result = finished.get(chosen) ?? null;
    fillIfNew(details, [stage ?? null, result], () => (stage ? stageDetails(stage, result) : []));
  }

  return { node, update, see };
}

function line(stage, { paces, open, choose }) {
  const shape = icon(stage.status);
  const word = h("span");
  const state = h("span", { class: "chip" }, shape, word);
  const progress = h("div");
  const figures = h("span", { class: "soft stage-words" });
  const took = h("span");
  const name = h("button", { type: "button", class: "link", click: () => choose(stage.node) }, stage.node);
  const node = h(
    "tr",
    { "data-stage": stage.node },
    h("th", { scope: "row" }, name),
    h("td", null, state),
    h("td", { class: "wide-column" }, h("div", null, progress, figures)),
    h("td", { class: "took" }, took),
  );

  function update(stage) {
    attr(node, "data-status", stage.status);
    attr(state, "class", `chip ${tone(stage.status)}`);
    setIcon(shape, stage.status);
    say(word, stage.status);
    drawProgress(progress, stage);
    say(figures, words(stage, paces, open));
    if (stage.status === "cached" || !stage.started_at) setDuration(took, null);
    else
      setDuration(
        took,
        stage.started_at,
        stage.status === "running" ? null : (stage.finished_at ?? stage.started_at),
      );
  }

  return { node, update };
}

/** Draw a cell per block if progress counts blocks, else a bar; nothing for a stage that has not run. */
function drawProgress(box, stage) {
  const counted = stage.total > 0 && (stage.status === "running" || stage.done > 0);
  const kind = !counted
    ? ""
    : stage.unit === "block" && stage.total <= MOST_CELLS
      ? `cells ${stage.total}`
      : "bar";
  fillIfNew(box, kind, () => {
    if (kind === "") return [];
    const bar = { role: "progressbar", "aria-valuemin": 0, "aria-label": `${stage.node}: ${stage.unit}` };
    if (kind === "bar") return h("span", { class: "bar", ...bar }, h("span", { class: "bar-fill" }));
    return h(
      "span",
      { class: "cells", ...bar },
      Array.from({ length: stage.total }, (_, i) => h("span", { class: "cell", title: `block ${i}` })),
    );
  });
  if (kind === "") return;
  const shown = box.firstChild;
  attr(shown, "aria-valuemax", stage.total);
  attr(shown, "aria-valuenow", stage.done);
  if (kind === "bar") {
    attr(shown, "class", `bar ${tone(stage.status)}`);
    shown.firstChild.style.width = `${(100 * stage.done) / stage.total}%`;
    return;
  }
  [...shown.children].forEach((cell, i) => {
    const state = i < stage.done ? "done" : i < stage.done + 1 && stage.status === "running" ? "now" : "";
    attr(cell, "class", `cell ${state}`.trim());
  });
}

function words(stage, paces, open) {
  if (stage.status === "pending")
    return open.has(stage.node) ? awaited(stage.needs.filter((node) => open.has(node))) : "";
  if (stage.status === "cached") return "made by an earlier job";
  const said = stage.total > 0 ? [`${count(stage.done)}/${count(stage.total)} ${stage.unit}`] : [];
  const pace = stage.status === "running" ? paces.of(stage) : null;
  if (pace) {
    said.push(
      pace.perSecond >= 1
        ? `${pace.perSecond.toFixed(1)} ${stage.unit}/s`
        : `${seconds(1 / pace.perSecond)}/${stage.unit}`,
    );
    if (stage.done < stage.total) said.push(`${seconds(pace.remaining)} left`);
  }
  if (stage.note) said.push(stage.note);
  return said.join(" · ");
}

function awaited(nodes) {
  if (nodes.length === 0) return "waits for room";
  return `waits for ${nodes.length > MOST_NAMED ? `${nodes.length} stages` : nodes.join(", ")}`;
}
