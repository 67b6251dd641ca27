// Periodic work: requests to the API while the page is visible, and times that tick.

import { ApiError, AwayError } from "./api.js";
import { h, say } from "./dom.js";
import { moment, relative, seconds } from "./format.js";

const SLOWEST_SECONDS = 15;

/**
 * Calls `look(signal)` at once and then every `period` seconds while the tab is visible, and at once when it
 * becomes visible again. `look` may return the seconds until the next call, or false for no more calls.
 * Returns {stop, soon}: `soon` calls it now.
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

/** Shows a message below the header while the service does not answer. */
export function connected(well, error) {
  const line = document.getElementById("connection");
  const why = error instanceof ApiError ? ` (${error.message})` : "";
  say(line, well ? "" : `The service does not answer. Trying again …${why}`);
}

/** Announces words to screen readers. */
export function announce(words) {
  say(document.getElementById("announcer"), words);
}

/** An element with a relative time that ticks, such as `5 min ago`, and the full date as its title. */
export function timeNode(at) {
  const node = h("time");
  setTime(node, at);
  return node;
}

/** Set the moment of a timeNode; it is empty without one. */
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

/** Show how long something took; without an end, how long it has taken so far, which ticks. */
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
