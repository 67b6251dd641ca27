// #/jobs/<id>: one job, live. After each event, the job is fetched again and shown.

import { ApiError, get } from "../api.js";
import { fill, h, show } from "../dom.js";
import { follow } from "../follow.js";
import { percent } from "../format.js";
import { announce, every } from "../live.js";
import { ENDED } from "../status.js";
import { tabs } from "../tabs.js";
import { artifactList } from "./artifacts.js";
import { eventList } from "./events.js";
import { jobHead } from "./job_head.js";
import { logBox } from "./log.js";
import { results } from "./results.js";
import { specText } from "./spec.js";
import { stages } from "./stages.js";
import { training } from "./training.js";

const AT_LEAST_EVERY_SECONDS = 5; // in case events do not arrive
const RARELY_SECONDS = 30;
const AT_MOST_EVERY_MS = 250;

/** Show the job `id` in `main`; `rest` names the tab. */
export function mount(main, id, rest) {
  const path = `/jobs/${encodeURIComponent(id)}`;
  let job = null;
  let settled = Promise.resolve();
  let timer = null;

  const head = jobHead(() => looking.soon());
  const stageView = stages();
  const trainingView = training();
  const figures = results(path);
  const events = eventList();
  const log = logBox(path);
  const artifacts = artifactList(path);
  const spec = specText();
  const parts = tabs(
    "Details of the job",
    [
      { name: "events", label: "Events", node: events.node },
      { name: "log", label: "Log", node: log.node, open: log.open, close: log.close },
      {
        name: "artifacts",
        label: "Artifacts",
        node: artifacts.node,
        open: artifacts.open,
        close: artifacts.close,
      },
      { name: "spec", label: "Spec", node: spec.node },
    ],
    (name) => history.replaceState(null, "", `#${path}/${name}`),
  );
  parts.choose(rest[0]);

  const trail = h(
    "nav",
    { class: "trail", "aria-label": "Path" },
    h("a", { href: "#/jobs" }, "Jobs"),
    " / ",
    id,
  );
  const all = h(
    "div",
    { class: "job" },
    head.node,
    stageView.node,
    trainingView.node,
    figures.node,
    parts.node,
  );
  show(all, false);
  fill(main, trail, all);
  document.title = "Job · Secateur";

  const looking = every(AT_LEAST_EVERY_SECONDS, look);
  const following = follow(id, { seen, goOn });

  async function look(signal) {
    try {
      const done = get(path, { signal });
      settled = done.catch(() => {});
      draw(await done);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
      fill(main, trail, h("h1", null, "No such job"), h("p", null, error.message));
      following.stop();
      return false;
    }
    return ENDED.has(job.status) ? RARELY_SECONDS : undefined; // somebody may retry it
  }

  function draw(fresh) {
    const before = job;
    job = fresh;
    if (!before && job.status === "succeeded") head.node.after(figures.node); // of a finished job, results come first
    show(all, true);
    head.update(job);
    stageView.update(job);
    figures.update(job);
    log.update(job);
    artifacts.update(job);
    spec.update(job);
    const share = ENDED.has(job.status) ? "" : ` ${percent(job.progress)}`;
    document.title = `${job.status}${share} · ${job.name ?? job.id} · Secateur`;
    if (before && before.status !== job.status) announce(`The job is ${job.status}.`);
    if (before && ENDED.has(before.status) && !ENDED.has(job.status)) following.again();
  }

  function seen(event) {
    events.add(event);
    stageView.see(event);
    trainingView.see(event);
    timer ??= setTimeout(() => {
      timer = null;
      looking.soon();
    }, AT_MOST_EVERY_MS);
  }

  async function goOn() {
    looking.soon();
    await settled;
    return job === null || !ENDED.has(job.status);
  }

  return {
    go(to) {
      parts.choose(to[0]);
      if (to[0]) parts.node.scrollIntoView();
    },
    unmount() {
      clearTimeout(timer);
      looking.stop();
      following.stop();
      parts.close();
    },
  };
}
