// The events of a job as lines, oldest first; all progress of a stage shares one line.

import { h, say } from "../dom.js";
import { clock, count, moment, perplexity, seconds } from "../format.js";
import { stickToEnd } from "../scroll.js";

const MOST_LINES = 1000;

/** Returns {node, add(event)}. */
export function eventList() {
  const list = h("ol", { class: "lines events" });
  const box = h("div", { class: "scrolled", tabindex: 0, role: "group", "aria-label": "Events" }, list);
  const progress = new Map(); // attempt and stage → its line
  let waiting = [];

  function add(event) {
    if (waiting.push(event) === 1) setTimeout(draw);
  }

  function draw() {
    const events = waiting;
    waiting = [];
    stickToEnd(box, () => {
      for (const event of events) put(event);
      while (list.childElementCount > MOST_LINES) list.firstChild.remove();
    });
  }

  function put({ id, attempt, at, body }) {
    const stage = body.result?.node ?? body.node ?? "";
    const key = `${attempt} ${stage}`;
    const words = sentence(body, attempt);
    if (words === null) return;
    const known = body.type === "stage.progress" ? progress.get(key) : undefined;
    const row = known?.isConnected ? known : line(id);
    const when = Date.parse(at) / 1000;
    const [time, where, what] = row.children;
    say(time, clock(when));
    time.dateTime = at;
    time.title = moment(when);
    say(where, stage || "job");
    say(what, words);
    row.className = tone(body);
    row.dataset.type = body.type;
    if (!row.isConnected) list.append(row);
    if (body.type === "stage.progress") progress.set(key, row);
    else if (stage) progress.delete(key);
  }

  return { node: box, add };
}

function line(id) {
  return h(
    "li",
    { "data-event": id },
    h("time"),
    h("span", { class: "where" }),
    h("span", { class: "what" }),
  );
}

function tone({ type, level }) {
  if (type === "job.failed" || type === "attempt.failed") return "bad";
  if (type === "stage.retried" || level === "warning") return "warn";
  return type === "job.succeeded" ? "good" : "";
}

/** An event as one sentence; null for an event that has no line. */
function sentence(body, attempt) {
  switch (body.type) {
    case "stage.started":
      return "runs";
    case "stage.progress":
      return `${count(body.done)}/${count(body.total)} ${body.unit}${body.note ? ` · ${body.note}` : ""}`;
    case "training.step":
      return null; // the line of its progress shows it
    case "training.validated":
      return validated(body.validation);
    case "stage.finished":
      return body.result.cached ? "cached" : `done in ${seconds(body.result.measured.seconds)}`;
    case "stage.retried":
      return `continues: ${reason(body.reason)}`;
    case "message":
      return `${body.level}: ${body.text}`;
    case "attempt.submitted":
      return `attempt ${attempt} was handed to Ray`;
    case "attempt.started":
      return `attempt ${attempt} runs`;
    case "attempt.failed":
      return `attempt ${attempt} failed: ${reason(body.reason)}`;
    case "attempt.finished":
      return null;
    case "job.failed":
      return `failed: ${reason(body.reason)}`;
    default:
      return body.type.replace("job.", "").replaceAll("_", " ");
  }
}

function validated({ step, loss, perplexity: value }) {
  return `held-out text after step ${count(step)}: loss ${loss.toFixed(4)}, perplexity ${perplexity(value)}`;
}

function reason({ message, param, node }) {
  return `${message}${param ? ` (${param})` : ""}${node ? ` (at ${node})` : ""}`;
}
