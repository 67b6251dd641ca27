// The head of the job page: facts, status, the error if there is one, and the buttons.

import { post } from "../api.js";
import { attr, fillIfNew, h, say, show } from "../dom.js";
import { confirm } from "../dialog.js";
import { percent, plain, recipe } from "../format.js";
import { setDuration, setTime, timeNode } from "../live.js";
import { mayChange } from "../session.js";
import { chip, ENDED, setChip, tone } from "../status.js";

const SIZES = ["workers", "cpus_per_worker", "gpus_per_worker", "memory_per_worker", "accelerator_type"];
const PARTS = ["pruning", "recovery", "evaluation"];

/** Makes the head. `changed` is called after a button has changed the job. Returns {node, update(job)}. */
export function jobHead(changed) {
  let job = null;
  const title = h("h1");
  const state = chip("queued");
  const cancel = h("button", { type: "button", class: "danger", click: askCancel }, "Cancel job");
  const retry = h("button", { type: "button", class: "primary", click: askRetry }, "Retry job");
  const bar = h("span", { class: "bar-fill" });
  const track = h(
    "div",
    {
      class: "bar",
      role: "progressbar",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-label": "progress of the job",
    },
    bar,
  );
  const share = h("span", { class: "share" });
  const created = timeNode(null);
  const [waited, took] = [h("span"), h("span")];
  const facts = {
    model: h("span", { class: "source" }),
    recipe: h("span"),
    attempt: h("span"),
    resources: h("span"),
    labels: h("span"),
  };
  const labelsFact = fact("Labels", facts.labels, "wide");
  const problem = h("div", { class: "error-panel", role: "alert", hidden: true });
  const node = h(
    "header",
    { class: "job-head" },
    h(
      "div",
      { class: "row head" },
      h("div", { class: "row title" }, title, state),
      h("div", { class: "row" }, cancel, retry),
    ),
    h("div", { class: "progress" }, track, share),
    h(
      "dl",
      { class: "facts" },
      fact("Model", facts.model, "wide"),
      fact("Recipe", facts.recipe, "wide"),
      fact("Created", created),
      fact("Waited", waited),
      fact("Took", took),
      fact("Resources", facts.resources, "wide"),
      fact("Attempt", facts.attempt),
      labelsFact,
    ),
    problem,
  );

  function askCancel() {
    return act(
      {
        title: "Cancel this job?",
        text: "Its workers are stopped. Stored results are kept, and a retry continues from there.",
        yes: "Cancel job",
        danger: true,
      },
      "cancel",
    );
  }

  function askRetry() {
    return act(
      {
        title: "Retry this job?",
        text: "It is queued again on the same sources; finished stages and blocks are not done again.",
        yes: "Retry job",
      },
      "retry",
    );
  }

  async function act(question, verb) {
    if (await confirm({ ...question, act: () => post(`/jobs/${job.id}/${verb}`) })) changed();
  }

  function update(fresh) {
    job = fresh;
    const over = ENDED.has(job.status);
    say(title, job.name ?? job.id);
    setChip(state, job.status);
    show(cancel, mayChange() && !over && job.status !== "cancelling");
    show(retry, mayChange() && (job.status === "failed" || job.status === "cancelled"));
    attr(track, "class", `bar ${tone(job.status)}`);
    attr(track, "aria-valuenow", Math.floor(job.progress * 100));
    bar.style.width = `${job.progress * 100}%`;
    say(share, percent(job.progress));
    say(facts.model, job.model);
    say(facts.recipe, recipe(job.spec));
    say(facts.attempt, job.attempt || "none yet");
    say(facts.resources, resources(job));
    setTime(created, job.created_at);
    setDuration(waited, job.created_at, job.started_at ?? job.finished_at);
    setDuration(took, job.started_at, over ? job.finished_at : null);
    if (!job.started_at) say(took, "–");
    const labels = Object.entries(job.labels);
    show(labelsFact, labels.length > 0);
    fillIfNew(facts.labels, labels, () =>
      labels.map(([key, value]) => h("span", { class: "label" }, `${key}: ${value}`)),
    );
    const { error, unread } = job;
    show(problem, error !== null || unread !== null);
    fillIfNew(problem, { error, unread }, () => [
      ...(unread ? [h("p", { class: "message" }, unread)] : []),
      ...(error ? described(job) : []),
    ]);
  }

  return { node, update };
}

const BLAMES = {
  user: "the user's: the request, its sources or the installation must change",
  machine: "the machine's: trying again may help",
  bug: "a bug of Secateur: trying again does not help",
};

function described(job) {
  const { code, message, blame, param, node, log } = job.error;
  const verb = job.status === "failed" ? "The job failed" : "The last attempt failed";
  const pairs = [
    blame && ["Whose", BLAMES[blame]],
    ["Code", h("code", null, code)],
    param && ["Field", h("code", null, param)],
    node && ["Stage", h("code", null, node)],
    log && [
      "Log",
      [
        h("a", { href: `#/jobs/${job.id}/log` }, "show it here"),
        " or ",
        h("a", { href: log, target: "_blank", rel: "noopener" }, "the whole file"),
      ],
    ],
  ];
  return [
    h("h2", null, verb),
    h("p", { class: "message" }, message),
    h(
      "dl",
      { class: "facts" },
      pairs.filter(Boolean).map(([name, value]) => fact(name, value)),
    ),
  ];
}

function resources({ resources: asked, priority }) {
  if (!asked) return "unknown"; // another version of Secateur stored it
  const urgent = priority ? ` · priority ${priority}` : "";
  return [workers(asked), ...PARTS.flatMap((part) => ofPart(part, asked))].join(" · ") + urgent;
}

/** What a part of the job sets for itself, with the fields that it leaves out. */
function ofPart(part, asked) {
  const own = asked[part] ?? {};
  if (SIZES.every((field) => own[field] == null)) return [];
  const values = SIZES.map((field) => [field, own[field] ?? asked[field]]);
  return [`${part} ${workers(Object.fromEntries(values))}`];
}

function workers(size) {
  const kind = size.accelerator_type ? `${size.accelerator_type} ` : "";
  const gpus = size.gpus_per_worker ? `, ${plain(size.gpus_per_worker)} ${kind}GPU` : "";
  const each = `${size.cpus_per_worker} CPU${gpus}, ${size.memory_per_worker}`;
  return `${size.workers} ${size.workers === 1 ? "worker" : "workers"} × ${each}`;
}

function fact(name, value, className) {
  return h("div", { class: className }, h("dt", null, name), h("dd", null, value));
}
