// A table of lm-eval's figures for all models side by side.

import { h } from "../dom.js";
import { metric } from "../format.js";
import { capital, models } from "../models.js";

/** Makes the table. `tasks` are the summary's TaskComparisons. */
export function taskTable(tasks) {
  const named = models(tasks);
  const heads = ["Task", "Metric", "Few-shot", "Questions", ...named.map(capital), "Difference"];
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
          "± one standard error; bold: the paired 95 % interval does not hold zero, or beyond two combined errors",
          limited ? "; with a limit not comparable with published figures" : "",
        ),
      ),
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          heads.map((name) => h("th", { scope: "col", class: name === "Metric" ? "words" : null }, name)),
        ),
      ),
      h("tbody", null, tasks.map((task) => row(task, named))),
    ),
  );
}

function row(task, named) {
  const direction = { true: " ↑", false: " ↓" }[String(task.higher_is_better)] ?? "";
  const difference = metric(task.difference, { sign: true });
  return h(
    "tr",
    { class: task.main ? null : "minor" },
    h("th", { scope: "row", class: task.group ? "member" : null }, task.task),
    h("td", { class: "words" }, task.metric, task.filter === "none" ? "" : ` (${task.filter})`, direction),
    h("td", null, task.num_fewshot ?? "–"),
    h("td", null, task.samples, task.limit ? h("small", null, ` limit ${task.limit}`) : null),
    named.map((which) => h("td", null, metric(task[which]), stderr(task[`${which}_stderr`]))),
    h("td", null, standsOut(task) ? h("b", null, difference) : difference, certainty(task.paired)),
  );
}

function stderr(value) {
  return (value ?? null) === null ? null : h("small", null, ` ± ${metric(value)}`);
}

/** The 95 % interval of a difference, paired over the same documents. */
function certainty(paired) {
  if (!paired) return null;
  const [low, high] = [paired.low, paired.high].map((value) => metric(value, { sign: true }));
  return h("small", null, ` ${low} to ${high}`);
}

/** The same as TaskComparison.stands_out in pipeline/evaluation/task_comparison.py. */
function standsOut({ paired, difference, dense_stderr: dense, pruned_stderr: pruned, recovered, recovered_stderr: after }) {
  if (paired) return paired.low > 0 || paired.high < 0;
  const final = (recovered ?? null) === null ? pruned : after;
  return dense !== null && final !== null && Math.abs(difference) > 2 * Math.hypot(dense, final);
}
