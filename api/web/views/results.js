// The results of a job: figures, tables and the picture of its report.

import { get } from "../api.js";
import { blockChart } from "../chart.js";
import { fillIfNew, h } from "../dom.js";
import { bytes, metric, perplexity, plain, seconds, short } from "../format.js";
import { capital, models, titled } from "../models.js";
import { sweepTable } from "./sweep_table.js";
import { taskTable } from "./task_table.js";

/** Makes the results of the job at `path`. Returns {node, update(job)}. */
export function results(path) {
  const box = h("div");
  const link = h(
    "a",
    { class: "button", href: `${path}/report?format=html`, target: "_blank", rel: "noopener" },
    "Full report",
  );
  const top = h("div", { class: "row head" }, h("h2", { id: "results-title" }, "Results"));
  const node = h("section", { "aria-labelledby": "results-title" }, top, box);
  let shown = null; // the report that is shown or being fetched

  async function update(job) {
    const report = job.stages.find((stage) => stage.node === "report");
    const isThere = report && (report.status === "succeeded" || report.status === "cached");
    if (!isThere) {
      if (shown === null) fillIfNew(box, job.status, () => h("p", { class: "calm-message" }, promise(job)));
      return;
    }
    const wanted = `${job.attempt} ${report.finished_at}`;
    if (shown === wanted) return;
    shown = wanted;
    try {
      const document = await get(`${path}/report?format=json`);
      fillIfNew(box, wanted, () =>
        document.object === "sweep_report" ? sweepTable(document.data.members) : drawn(document),
      );
      top.append(link);
    } catch (error) {
      shown = null;
      fillIfNew(box, error.message, () =>
        h("p", { class: "problem" }, `The report cannot be read: ${error.message}`),
      );
    }
  }

  return { node, update };
}

function promise(job) {
  if (job.status === "failed" || job.status === "cancelled")
    return `The job ${job.status === "failed" ? "failed" : "was cancelled"}, so there are no figures.`;
  return "Perplexities, tasks and the picture of the blocks appear here when the report is made.";
}

function drawn({ summary, data }) {
  return [
    h("dl", { class: "tiles" }, tiles(summary)),
    summary.notes.length
      ? h(
          "ul",
          { class: "notes", "aria-label": "Notes" },
          summary.notes.map((note) => h("li", null, note)),
        )
      : null,
    h("div", { class: "figures-and-picture" }, tables(summary), data.plan ? picture(summary, data) : null),
  ];
}

function tables({ perplexity: texts, tasks = [] }) {
  if (texts.length + tasks.length === 0) return null;
  return h("div", { class: "tables" }, perplexityTable(texts), tasks.length ? taskTable(tasks) : null);
}

function picture(summary, data) {
  const measured = data.measurements ? "what the allocation measured, " : "";
  return h(
    "figure",
    null,
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "group", "aria-label": "Picture of the blocks" },
      blockChart(data),
    ),
    h(
      "figcaption",
      null,
      `Bars: ${measured}achieved sparsity. Short lines: planned sparsity of the block. `,
      `Dashed line: asked over all blocks (${plain(summary.asked_sparsity)}).`,
    ),
  );
}

function tiles(summary) {
  const first = summary.perplexity[0];
  const tasks = (summary.tasks ?? []).filter((task) => task.main);
  const task = tasks.find((one) => one.metric === "average") ?? tasks[0];
  const share = first ? wonBack(first) : null;
  return [
    first
      ? tile(
          `Perplexity, ${titled(first)}`,
          arrows(first, perplexity),
          `${models([first]).join(" → ")}, × ${first.ratio.toFixed(3)}`,
        )
      : tile("Perplexity", "not measured", "the spec names no text"),
    task
      ? tile(
          `${task.task}, ${task.metric}`,
          arrows(task, metric),
          `${models([task]).join(" → ")}${task.limit ? `, limit ${task.limit}` : ""}`,
        )
      : null,
    share === null
      ? null
      : tile("Won back", `${(100 * share).toFixed(0)} %`, "of the log-perplexity lost in pruning"),
    summary.achieved_sparsity === null ? null : tile("Sparsity", summary.achieved_sparsity.toFixed(4), zeros(summary)),
    summary.masks ? tile("Masks learned", `${short(summary.masks.tokens)} tokens`, learned(summary.masks)) : null,
    summary.training ? tile("Training", `${short(summary.training.tokens)} tokens`, trained(summary.training)) : null,
    tile(
      "Work",
      seconds(summary.seconds),
      `${summary.cached_stages} of ${summary.stages} stages from the cache`,
    ),
    tile(
      "Peak memory",
      summary.peak_memory_bytes === null ? "not measured" : bytes(summary.peak_memory_bytes),
      "of one process, any stage",
    ),
  ];
}

function arrows(row, words) {
  return models([row])
    .map((name) => words(row[name]))
    .join(" → ");
}

/** The same as pipeline.comparison.Comparison.recovered_share. */
function wonBack({ dense, pruned, recovered }) {
  if (pruned === null || (recovered ?? null) === null || pruned <= dense) return null;
  return Math.log(pruned / recovered) / Math.log(pruned / dense);
}

function zeros({ asked_sparsity: asked, checks }) {
  const said = [asked !== null && `asked ${plain(asked)}`, checks && `held at all ${checks} checks`];
  return said.filter(Boolean).join("; ");
}

function trained({ steps, total_steps: total, tokens_per_second: speed }) {
  return `${steps} of ${total} steps${speed === null ? "" : `, ${short(speed)} tokens/s`}`;
}

function learned({ changed, ...training }) {
  const words = trained(training);
  return changed === null ? words : `${words}, ${(100 * changed).toFixed(0)} % of the groups changed`;
}

function tile(name, value, small) {
  return h("div", null, h("dt", null, name), h("dd", null, value, h("small", null, small)));
}

function described({ stride, bos, tokens_scored: tokens, dtype }) {
  return `stride ${stride}, BOS ${bos}, ${tokens} tokens scored, ${dtype}`;
}

function perplexityTable(texts) {
  if (!texts.length) return null;
  const named = models(texts);
  const heads = ["Text", ...named.map(capital), "Ratio", "Windows"];
  const rows = texts.map(({ name, per, ratio, contract, ...values }) =>
    h(
      "tr",
      null,
      h("th", { scope: "row" }, titled({ name, per })),
      named.map((which) => h("td", null, perplexity(values[which]))),
      h("td", null, ratio.toFixed(3)),
      h(
        "td",
        {
          title: described(contract),
        },
        `${contract.windows} × ${contract.sequence_length}`,
      ),
    ),
  );
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "figures", id: "perplexity-table" },
      h("caption", null, "Perplexity"),
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          heads.map((name) => h("th", { scope: "col" }, name)),
        ),
      ),
      h("tbody", null, rows),
    ),
  );
}
