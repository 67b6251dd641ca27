// #/schedules: standing orders, and the aliases that they move.

import { ApiError, get } from "../api.js";
import { fill, fillIfNew, h, keyed, say, show } from "../dom.js";
import { every, setTime, timeNode } from "../live.js";
import { chip, setChip } from "../status.js";
import { when } from "./schedule_words.js";

const LOOK_SECONDS = 3;

/** Show the list in `main`. */
export function mount(main) {
  document.title = "Schedules · Secateur";
  const message = h("p", { class: "calm-message", hidden: true });
  const [schedules, aliases] = [h("tbody"), h("tbody")];
  const first = table(
    "schedules",
    "Schedules",
    ["Status", "Name", "Starts", "Next", "Last firing", "Alias"],
    schedules,
  );
  const second = table("aliases", "Aliases", ["Alias", "Job", "Checkpoint", "Moved", "By"], aliases);
  const lower = h(
    "section",
    { "aria-labelledby": "aliases-title", hidden: true },
    h("h2", { id: "aliases-title" }, "Aliases"),
    second,
  );
  show(first, false);
  fill(main, h("h1", null, "Schedules"), message, first, lower);
  const looking = every(LOOK_SECONDS, look);

  async function look(signal) {
    try {
      const [{ data: found, unread }, { data: moved }] = await Promise.all([
        get("/schedules?limit=200", { signal }),
        get("/aliases", { signal }),
      ]);
      keyed(schedules, found, (one) => one.id, scheduleRow);
      keyed(aliases, moved, (one) => one.name, aliasRow);
      show(first, found.length > 0);
      show(lower, moved.length > 0);
      show(message, found.length === 0 || unread.length > 0);
      if (unread.length) fillIfNew(message, unread, () => unread.map(({ why }) => h("p", null, why)));
      else fillIfNew(message, "none", () => [
        "No schedules yet. ",
        h("code", null, "secateur schedules create FILE.yaml"),
        " or POST /schedules makes one.",
      ]);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
      show(message, true);
      fillIfNew(message, "absent", () => "This service has no schedules.");
      return false;
    }
    return undefined;
  }

  return { unmount: looking.stop };
}

function table(className, caption, names, body) {
  const heads = names.map((name) => h("th", { scope: "col" }, name));
  return h(
    "table",
    { class: `list ${className}` },
    h("caption", { class: "unseen" }, caption),
    h("thead", null, h("tr", null, heads)),
    body,
  );
}

function scheduleRow(schedule) {
  const state = chip("active");
  const next = timeNode(null);
  const [starts, alias, error] = [h("span"), h("span"), h("div", { class: "problem" })];
  const outcome = h("span");
  const node = h(
    "tr",
    { "data-schedule": schedule.name },
    cell("Status", state),
    cell("Name", h("a", { href: `#/schedules/${encodeURIComponent(schedule.name)}` }, schedule.name), error),
    cell("Starts", starts),
    cell("Next", next),
    cell("Last firing", outcome),
    cell("Alias", alias),
  );

  function update(schedule) {
    const last = schedule.last_firing;
    setChip(state, schedule.paused ? "paused" : schedule.error ? "failed" : "active");
    say(starts, when(schedule));
    say(alias, schedule.alias ?? "");
    say(error, schedule.error ?? "");
    setTime(next, schedule.next_at);
    fillIfNew(outcome, last && [last.id, last.outcome], () =>
      last ? h("span", { class: "row tight" }, chip(last.outcome), timeNode(last.at)) : "none yet",
    );
  }

  return { node, update };
}

function aliasRow(alias) {
  const job = h("a", { class: "whole" });
  const [prefix, by, moved] = [h("code"), h("span"), timeNode(null)];
  const node = h(
    "tr",
    { "data-alias": alias.name },
    cell("Alias", h("b", null, alias.name)),
    cell("Job", job),
    cell("Checkpoint", prefix),
    cell("Moved", moved),
    cell("By", by),
  );

  function update({ job: id, prefix: place, manifest, moved_at: at, moved_by: mover }) {
    job.href = `#/jobs/${id}`;
    say(job, id);
    say(prefix, place);
    prefix.title = `SHA-256 of its manifest: ${manifest}`;
    say(by, mover);
    setTime(moved, at);
  }

  return { node, update };
}

function cell(name, ...children) {
  return h("td", { "data-name": name }, children);
}
