// #/schedules/<name>: one standing order with its definition, its candidates and the outcomes of its firings.

import { ApiError, get, post } from "../api.js";
import { fill, fillIfNew, h, keyed, say, show } from "../dom.js";
import { confirm } from "../dialog.js";
import { moment, recipe } from "../format.js";
import { every, setTime, timeNode } from "../live.js";
import { mayChange } from "../session.js";
import { chip, setChip } from "../status.js";
import { yaml } from "../yaml.js";
import { firingTable } from "./firings.js";
import { policies, when } from "./schedule_words.js";

const LOOK_SECONDS = 2;

/** Show the schedule with this name or id in `main`. */
export function mount(main, name) {
  document.title = `${name} · Secateur`;
  const path = `/schedules/${encodeURIComponent(name)}`;
  const state = chip("active");
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const notice = h("p", { class: "soft", role: "status" });
  const pause = h("button", { type: "button", click: () => ask(PAUSE) }, "Pause");
  const resume = h("button", { type: "button", click: () => ask(RESUME) }, "Resume");
  const run = h("button", { type: "button", class: "primary", click: () => ask(RUN) }, "Run now");
  const facts = h("dl", { class: "facts" });
  const next = timeNode(null);
  const zoned = h("span", { class: "soft" });
  const looked = timeNode(null);
  const alias = h("dd");
  const rows = h("tbody");
  const candidates = h(
    "section",
    { "aria-labelledby": "candidates-title", hidden: true },
    h("h2", { id: "candidates-title" }, "Candidates"),
    h(
      "table",
      { class: "list candidates" },
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          ["State", "Checkpoint", "Since", "Why"].map((head) => h("th", { scope: "col" }, head)),
        ),
      ),
      rows,
    ),
  );
  const firings = firingTable(path);
  const definition = h("pre", { class: "spec", tabindex: 0, "aria-label": "Definition" });
  const all = h(
    "div",
    null,
    h(
      "div",
      { class: "row head" },
      h("div", { class: "row title" }, h("h1", null, name), state),
      h("div", { class: "row" }, pause, resume, run),
    ),
    problem,
    notice,
    facts,
    candidates,
    firings.node,
    h("details", null, h("summary", null, "Definition"), definition),
  );
  show(all, false);
  const trail = h(
    "nav",
    { class: "trail", "aria-label": "Path" },
    h("a", { href: "#/schedules" }, "Schedules"),
    " / ",
    name,
  );
  fill(main, trail, all);
  const looking = every(LOOK_SECONDS, look);

  async function look(signal) {
    try {
      const [schedule] = await Promise.all([get(path, { signal }), firings.refresh(signal)]);
      draw(schedule, schedule.alias ? await aliasOf(schedule.alias, signal) : null);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
      fill(main, trail, h("h1", null, "No such schedule"), h("p", { class: "calm-message" }, error.message));
      return false;
    }
    return undefined;
  }

  function draw(schedule, pointer) {
    show(all, true);
    setChip(state, schedule.paused ? "paused" : schedule.error ? "failed" : "active");
    for (const [button, fits] of [
      [pause, !schedule.paused],
      [resume, schedule.paused],
      [run, true],
    ])
      show(button, fits && mayChange());
    show(problem, schedule.error !== null);
    say(problem, schedule.error ?? "");
    fillIfNew(
      facts,
      [
        schedule.cron,
        schedule.on_new_checkpoint,
        schedule.template,
        schedule.gates,
        schedule.missed,
        schedule.overlap,
      ],
      () => described(schedule),
    );
    setTime(next, schedule.next_at);
    say(zoned, moments(schedule));
    setTime(looked, schedule.looked_at);
    if (!schedule.looked_at) say(looked, "not yet");
    fillIfNew(alias, [schedule.alias, pointer], () => pointed(schedule.alias, pointer));
    show(candidates, schedule.candidates.length > 0);
    keyed(rows, schedule.candidates, (one) => one.source, candidate);
    say(definition, yaml(asked(schedule)));
  }

  function described(schedule) {
    return [
      ["Starts", when(schedule)],
      schedule.cron && ["Next", [next, zoned]],
      schedule.on_new_checkpoint && ["Looked", looked],
      ["Recipe", recipe(schedule.template.spec)],
      [
        "Gates",
        schedule.gates.length
          ? schedule.gates.map((gate) => h("div", null, h("code", null, gate)))
          : "none: every result is promoted",
      ],
      ["Policies", policies(schedule)],
    ]
      .filter(Boolean)
      .map(([term, value]) => h("div", { class: "wide" }, h("dt", null, term), h("dd", null, value)))
      .concat(h("div", { class: "wide" }, h("dt", null, "Alias"), alias));
  }

  async function ask({ verb, ...question }) {
    let answer = null;
    const act = async () => (answer = await post(`${path}/${verb}`));
    if (!(await confirm({ ...question, act }))) return;
    say(notice, verb === "run" ? started(answer.data) : "");
    looking.soon();
  }

  return { unmount: looking.stop };
}

const PAUSE = {
  verb: "pause",
  title: "Pause this schedule?",
  text: "It starts nothing until it is resumed. Running jobs continue.",
  yes: "Pause",
};
const RESUME = {
  verb: "resume",
  title: "Resume this schedule?",
  text: "It starts jobs again.",
  yes: "Resume",
};
const RUN = {
  verb: "run",
  title: "Run this schedule now?",
  text: "It starts what is new at once, without waiting for the next moment or a second look.",
  yes: "Run now",
};

/** The next moment in the schedule's zone, and in the reader's zone if that differs. */
function moments({ cron, next_at: at, paused }) {
  if (!at) return paused ? "paused" : "never";
  const [there, here] = [moment(at, cron?.timezone), moment(at)];
  return ` · ${there} ${cron?.timezone ?? ""}${there === here ? "" : ` · ${here} here`}`;
}

function started(firings) {
  if (firings.length === 0) return "Nothing new was found, so nothing was started.";
  return firings.length === 1 ? "It has fired." : `It has fired ${firings.length} times.`;
}

async function aliasOf(name, signal) {
  try {
    return await get(`/aliases/${encodeURIComponent(name)}`, { signal });
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

function pointed(name, pointer) {
  if (!name) return "none";
  if (!pointer) return [h("b", null, name), " points at nothing yet"];
  return [
    h("b", null, name),
    " → ",
    h("a", { class: "whole", href: `#/jobs/${pointer.job}` }, pointer.job),
    ", ",
    timeNode(pointer.moved_at),
    h("div", null, h("code", null, pointer.prefix)),
  ];
}

function candidate(one) {
  const [state, since, why] = [chip(one.state), timeNode(one.since), h("span")];
  const node = h(
    "tr",
    { "data-candidate": one.source },
    h("td", null, state),
    h("td", null, h("span", { class: "source" }, one.source)),
    h("td", null, since),
    h("td", null, why),
  );

  function update({ state: word, since: at, reason }) {
    setChip(state, word);
    setTime(since, at);
    say(why, reason ?? "");
  }

  return { node, update };
}

/** The request alone, as it was posted. */
function asked({ name, cron, on_new_checkpoint, template, gates, alias, missed, overlap, paused }) {
  return { name, cron, on_new_checkpoint, template, gates, alias, missed, overlap, paused };
}
