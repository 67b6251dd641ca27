// What goes on by itself: looks at the API while somebody looks at the page, and times that tick.

import { ApiError, AwayError } from "./api.js";
import { h, say } from "./dom.js";
import { moment, relative, seconds } from "./format.js";

const SLOWEST_SECONDS = 15;

/**
 * Look at once and then every so many seconds, while the tab is visible; again at once when it is seen again.
 * `look(signal)` may return after how many seconds to look next, or false for never. Gives {stop, soon}: `soon`
 * looks now.
 */
export function every(period, look) {
  const ended = new AbortController();
  let timer = null;
  let busy = false;
  let asked = false;
  let failures = 0;

  async function round() {
    clearTimeout(timer);
    if (busy) {
      asked = true;
      return;
    }
    if (ended.signal.aborted || document.hidden) return;
    busy = true;
    asked = false;
    let next = period;
    try {
      next = (await look(ended.signal)) ?? period;
      failures = 0;
      connected(true);
    } catch (error) {
      if (ended.signal.aborted) return;
      if (!(error instanceof AwayError) && !(error instanceof ApiError)) throw error;
      failures += 1;
      if (error instanceof AwayError || error.status >= 500) connected(false, error);
    } finally {
      busy = false;
    }
    if (asked) round();
    else if (next !== false)
      timer = setTimeout(round, Math.min(next * 2 ** failures, Math.max(SLOWEST_SECONDS, next)) * 1000);
  }

  document.addEventListener("visibilitychange", round, { signal: ended.signal });
  round();
  return {
    soon: round,
    stop() {
      ended.abort();
      clearTimeout(timer);
    },
  };
}

/** Says so below the header while the service does not answer. */
export function connected(well, error) {
  const line = document.getElementById("connection");
  const why = error instanceof ApiError ? ` (${error.message})` : "";
  say(line, well ? "" : `The service does not answer. Trying again …${why}`);
}

/** Tells those who hear the page rather than see it. */
export function announce(words) {
  say(document.getElementById("announcer"), words);
}

/** `5 min ago`, ticking; the full date as title. */
export function timeNode(at) {
  const node = h("time");
  setTime(node, at);
  return node;
}

/** Another moment for a timeNode; empty for none. */
export function setTime(node, at) {
  if (node.at === at) return;
  node.at = at;
  if (at === null || at === undefined) {
    node.removeAttribute("datetime");
    node.removeAttribute("title");
    delete node.dataset.at;
    say(node, "");
    return;
  }
  node.dataset.at = at;
  node.dateTime = new Date(at * 1000).toISOString();
  node.title = moment(at);
  say(node, relative(at));
}

/** How long something took, or has taken so far: then it ticks. */
export function setDuration(node, start, end) {
  if (start && !end) {
    node.dataset.since = start;
    say(node, seconds(sinceStart(start)));
    return;
  }
  delete node.dataset.since;
  say(node, start ? seconds(Math.max(end - start, 0)) : "");
}

function sinceStart(start) {
  return Math.max(Math.floor(Date.now() / 1000 - start), 0);
}

function tick() {
  if (document.hidden) return;
  for (const node of document.querySelectorAll("time[data-at]")) say(node, relative(Number(node.dataset.at)));
  for (const node of document.querySelectorAll("[data-since]"))
    say(node, seconds(sinceStart(Number(node.dataset.since))));
}

setInterval(tick, 1000);
