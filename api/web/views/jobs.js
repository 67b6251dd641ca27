// #/jobs: all jobs, newest first, live.

import { get } from "../api.js";
import { attr, fill, h, keyed, say, show } from "../dom.js";
import { percent, recipe, shortSource } from "../format.js";
import { every, setDuration, setTime, timeNode } from "../live.js";
import { chip, ENDED, setChip, tone } from "../status.js";
import { JobPages } from "./job_pages.js";

const LOOK_SECONDS = 2;
const STATUSES = ["queued", "running", "cancelling", "succeeded", "failed", "cancelled"];
const COLUMNS = ["Status", "Job", "Model", "Recipe", "Progress", "Labels", "Age", "Took"];

/** Show the list in `main`. */
export function mount(main) {
  document.title = "Jobs · Secateur";
  const status = h(
    "select",
    { "aria-label": "Status", change: changed },
    h("option", { value: "" }, "all statuses"),
    STATUSES.map((name) => h("option", { value: name }, name)),
  );
  const words = h("input", {
    ...{ type: "search", placeholder: "name, id, model, recipe, label", "aria-label": "Filter by text" },
    input: draw,
  });
  const body = h("tbody");
  const heads = COLUMNS.map((name) =>
    h("th", { scope: "col", class: name === "Progress" ? "wide-column" : null }, name),
  );
  const table = h(
    "table",
    { class: "list jobs" },
    h("caption", { class: "unseen" }, "Jobs, newest first"),
    h("thead", null, h("tr", null, heads)),
    body,
  );
  const empty = h("p", { class: "calm-message" });
  const more = h("button", { type: "button", click: older }, "More");
  const count = h("span", { class: "soft", role: "status" });
  const foot = h("div", { class: "row foot" }, more, count);
  fill(
    main,
    h("div", { class: "row head" }, h("h1", null, "Jobs"), h("div", { class: "row filters" }, status, words)),
    table,
    empty,
    foot,
  );
  for (const node of [table, empty, foot]) show(node, false);

  let pages = new JobPages("");
  const looking = every(LOOK_SECONDS, look);

  async function look(signal) {
    const asked = pages;
    await asked.refresh(
      (query) => get(`/jobs?${query}`, { signal }),
      (id) => get(`/jobs/${id}`, { signal }),
    );
    if (asked === pages) draw();
  }

  function changed() {
    pages = new JobPages(status.value);
    looking.soon();
  }

  async function older() {
    more.disabled = true;
    const asked = pages;
    try {
      await asked.older((query) => get(`/jobs?${query}`));
    } catch (error) {
      say(count, error.message);
    } finally {
      more.disabled = false;
    }
    if (asked === pages) draw();
  }

  function draw() {
    if (!pages.known) return;
    const text = words.value.trim().toLowerCase();
    const jobs = pages.jobs.filter((job) => !text || searched(job).includes(text));
    keyed(body, jobs, (job) => job.id, row);
    show(table, jobs.length > 0);
    show(empty, jobs.length === 0);
    show(foot, pages.hasMore || pages.jobs.length > 0);
    show(more, pages.hasMore);
    if (pages.jobs.length === 0 && !status.value) fillEmpty(empty);
    else
      say(
        empty,
        pages.hasMore
          ? "None of the jobs that were fetched so far fits. More fetches older ones."
          : "No job fits.",
      );
    const newest = pages.hasMore ? `of the newest ${pages.jobs.length}` : `of ${pages.jobs.length}`;
    say(
      count,
      text
        ? `${jobs.length} ${newest}`
        : pages.hasMore
          ? `the newest ${pages.jobs.length}`
          : plural(pages.jobs.length),
    );
  }

  return { unmount: looking.stop };
}

function fillEmpty(empty) {
  if (empty.querySelector("code")) return;
  fill(empty, "No jobs yet. ", h("code", null, "secateur submit SPEC.yaml"), " or POST /jobs makes one.");
}

function plural(count) {
  return count === 1 ? "1 job" : `${count} jobs`;
}

function searched(job) {
  const labels = Object.entries(job.labels).map(([key, value]) => `${key}:${value}`);
  return [job.id, job.name, job.model, recipe(job.spec), job.status, ...labels].join("\n").toLowerCase();
}

function row(job) {
  const state = chip(job.status);
  const runs = h("span", { class: "soft runs" });
  const bar = h("span", { class: "bar-fill" });
  const share = h("span", { class: "share" });
  const track = h(
    "span",
    {
      class: "bar",
      role: "progressbar",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-label": `progress of ${job.name ?? job.id}`,
    },
    bar,
  );
  const age = timeNode(job.created_at);
  const took = h("span");
  const labels = Object.entries(job.labels).map(([key, value]) =>
    h("span", { class: "label" }, `${key}: ${value}`),
  );
  const node = h(
    "tr",
    { "data-job": job.id },
    cell("Status", state),
    cell(
      "Job",
      h("a", { href: `#/jobs/${job.id}` }, job.name ?? job.id),
      job.name ? h("div", { class: "soft id" }, job.id) : null,
    ),
    cell("Model", h("span", { title: job.model }, shortSource(job.model))),
    cell("Recipe", recipe(job.spec)),
    cell("Progress", h("div", { class: "progress" }, track, share), runs),
    cell("Labels", labels),
    cell("Age", age),
    cell("Took", took),
  );

  function update(job) {
    setChip(state, job.status);
    attr(track, "class", `bar ${tone(job.status)}`);
    attr(track, "aria-valuenow", Math.floor(job.progress * 100));
    bar.style.width = `${job.progress * 100}%`;
    say(share, percent(job.progress));
    say(runs, job.stage ?? "");
    setTime(age, job.created_at);
    setDuration(took, job.started_at, ENDED.has(job.status) ? (job.finished_at ?? job.started_at) : null);
  }

  return { node, update };
}

function cell(name, ...children) {
  return h("td", { "data-name": name }, children);
}
