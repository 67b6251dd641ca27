// The router: it shows the view of the address (#/jobs, #/jobs/<id>, #/schedules, #/schedules/<name>).

import { ApiError, onUnauthorized, remove } from "./api.js";
import { attr, fill, h } from "./dom.js";
import { connected } from "./live.js";
import { loadCaller } from "./session.js";
import * as job from "./views/job.js";
import * as jobs from "./views/jobs.js";
import * as schedule from "./views/schedule.js";
import * as schedules from "./views/schedules.js";
import { signIn } from "./views/sign_in.js";

const VIEWS = { jobs: [jobs, job], schedules: [schedules, schedule] };
const RETRY_MS = 3000;

const main = document.getElementById("main");
let shown = null; // {place, view}: `view` has unmount() and perhaps go(rest)

/** `#/jobs/job-1/log` → {kind: "jobs", id: "job-1", rest: ["log"]}; null if the address has no view. */
function place() {
  const [kind = "jobs", id, ...rest] = location.hash
    .replace(/^#\/?/, "")
    .split("/")
    .filter(Boolean)
    .map(decoded);
  return Object.hasOwn(VIEWS, kind) ? { kind, id, rest } : null;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function leave() {
  shown?.view.unmount();
  shown = null;
}

function route() {
  const here = place();
  for (const link of document.querySelectorAll("nav [data-view]")) {
    attr(link, "aria-current", link.dataset.view === here?.kind ? "page" : null);
  }
  if (here && shown?.view.go && shown.place.kind === here.kind && shown.place.id === here.id) {
    shown.view.go(here.rest);
    return;
  }
  leave();
  if (!here) {
    fill(main, h("h1", null, "There is nothing here"), h("p", null, h("a", { href: "#/jobs" }, "All jobs")));
    return;
  }
  const view = VIEWS[here.kind][here.id ? 1 : 0];
  fill(main);
  window.scrollTo(0, 0);
  shown = { place: here, view: view.mount(main, here.id, here.rest) };
}

function setTitleBar(caller) {
  const out = h("button", { type: "button", click: signOut }, "Sign out");
  const who = document.getElementById("who");
  fill(
    who,
    caller?.prefix
      ? [h("span", { title: `key ${caller.prefix}…` }, `${caller.name} (${caller.role})`), out]
      : [],
  );
}

async function signOut() {
  await remove("/session");
  askForKey();
}

let asking = false;

function askForKey() {
  if (asking) return;
  asking = true;
  window.removeEventListener("hashchange", route);
  leave();
  setTitleBar(null);
  signIn(main, start);
}

async function start() {
  asking = false;
  let caller;
  try {
    caller = await loadCaller();
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      askForKey();
      return;
    }
    connected(false, error);
    setTimeout(start, RETRY_MS);
    return;
  }
  connected(true);
  setTitleBar(caller);
  window.removeEventListener("hashchange", route);
  window.addEventListener("hashchange", route);
  route();
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part after # names the view, not an element
  main.focus();
});
onUnauthorized(askForKey);
start();
