// The output of a job's drivers, followed while it is visible. Of long logs, the end is shown.

import { text } from "../api.js";
import { h, say, show } from "../dom.js";
import { stickToEnd } from "../scroll.js";
import { ENDED } from "../status.js";

const MOST_LINES = 2000;
const LONGEST_LINE = 4000;
const RETRY_MS = 3000;
const ESCAPES = /\x1b\[[0-9;?]*[A-Za-z]/g; // colours of terminals

/** Makes the log of the job at `path`. Returns {node, update(job), open(), close()}. */
export function logBox(path) {
  const output = h("pre", {
    class: "log",
    tabindex: 0,
    role: "log",
    "aria-live": "off",
    "aria-label": "Log of the driver",
  });
  const message = h("p", { class: "calm-message" }, "There is no output yet.");
  const cut = h(
    "p",
    { class: "soft", hidden: true },
    `The last ${MOST_LINES} lines. `,
    h("a", { href: `${path}/logs`, target: "_blank", rel: "noopener" }, "The whole log"),
  );
  let isOpen = false;
  let reading = null; // an AbortController
  let received = 0; // characters of the log that were received
  let over = false;
  let cutLines = 0;
  let job = null;

  function turned() {
    if (isOpen && !document.hidden) read();
    else reading?.abort();
  }

  async function read() {
    if (reading || over || !isOpen || document.hidden) return;
    const mine = (reading = new AbortController());
    let skip = received; // each stream begins with the first character
    let failed = false;
    try {
      for await (const chunk of text(`${path}/logs?follow=true`, { signal: mine.signal })) {
        const fresh = chunk.slice(skip);
        skip -= Math.min(skip, chunk.length);
        received += fresh.length;
        if (fresh) stickToEnd(output, () => append(fresh));
      }
      over = job === null || ENDED.has(job.status);
    } catch (error) {
      failed = true;
      if (!mine.signal.aborted && received === 0) say(message, error.message);
    }
    reading = null;
    if (received === 0 && over) say(message, "There is no output.");
    if (!over && isOpen) setTimeout(read, failed && mine.signal.aborted ? 0 : RETRY_MS);
  }

  function append(fresh) {
    show(message, false);
    const pieces = fresh.replace(ESCAPES, "").split("\n");
    pieces.forEach((piece, i) => {
      if (i > 0 || !output.lastChild) output.append(h("span", null, ""));
      put(output.lastChild, piece);
    });
    while (output.childElementCount > MOST_LINES) {
      output.firstChild.remove();
      cutLines += 1;
    }
    show(cut, cutLines > 0);
  }

  return {
    node: h("div", { class: "log-panel" }, cut, message, output),
    update(fresh) {
      const goesOn = job !== null && ENDED.has(job.status) && !ENDED.has(fresh.status);
      job = fresh;
      if (!goesOn) return;
      over = false;
      read();
    },
    open() {
      isOpen = true;
      document.addEventListener("visibilitychange", turned);
      read();
    },
    close() {
      isOpen = false;
      document.removeEventListener("visibilitychange", turned);
      reading?.abort();
    },
  };
}

/** Add text to a line. Text after a carriage return replaces the line, as on a terminal. */
function put(line, piece) {
  const parts = ((line.written ?? "") + piece).split("\r");
  const ends = parts.at(-1) === "" && parts.length > 1; // nothing has followed the return yet
  line.written = ends ? `${parts.at(-2)}\r` : parts.at(-1);
  const shown = ends ? parts.at(-2) : parts.at(-1);
  say(line, shown.length > LONGEST_LINE ? `${shown.slice(0, LONGEST_LINE)}…` : shown);
}
