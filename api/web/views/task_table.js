// lm-eval's figures, dense and pruned side by side.

import { h } from "../dom.js";
import { metric } from "../format.js";

const HEADS = ["Task", "Metric", "Few-shot", "Questions", "Dense", "Pruned", "Difference"];

/** `tasks`: the summary's TaskComparisons. */
export function taskTable(tasks) {
  const limited = tasks.some((task) => task.limit);
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "figures", id: "tasks-table" },
      h(
        "caption",
        null,
        "Tasks ",
        h(
          "span",
          { class: "soft" },
          "± one standard error; bold: beyond two combined ones",
          limited ? "; with a limit not comparable with published figures" : "",
        ),
      ),
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          HEADS.map((name) => h("th", { scope: "col", class: name === "Metric" ? "words" : null }, name)),
        ),
      ),
      h("tbody", null, tasks.map(row)),
    ),
  );
}

function row(task) {
  const direction = { true: " ↑", false: " ↓" }[String(task.higher_is_better)] ?? "";
  const difference = metric(task.difference, { sign: true });
  return h(
    "tr",
    { class: task.main ? null : "minor" },
    h("th", { scope: "row", class: task.group ? "member" : null }, task.task),
    h("td", { class: "words" }, task.metric, task.filter === "none" ? "" : ` (${task.filter})`, direction),
    h("td", null, task.num_fewshot ?? "–"),
    h("td", null, task.samples, task.limit ? h("small", null, ` limit ${task.limit}`) : null),
    h("td", null, metric(task.dense), stderr(task.dense_stderr)),
    h("td", null, metric(task.pruned), stderr(task.pruned_stderr)),
    h("td", null, standsOut(task) ? h("b", null, difference) : difference),
  );
}

function stderr(value) {
  return value === null ? null : h("small", null, ` ± ${metric(value)}`);
}

/** As pipeline.comparison.TaskComparison.stands_out. */
function standsOut({ difference, dense_stderr: dense, pruned_stderr: pruned }) {
  return dense !== null && pruned !== null && Math.abs(difference) > 2 * Math.hypot(dense, pruned);
}
