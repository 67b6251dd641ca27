// Follows the events of a job by server-sent events.

const TYPES = [
  "job.queued",
  "job.cancel_requested",
  "job.cancelled",
  "job.failed",
  "job.succeeded",
  "attempt.submitted",
  "attempt.started",
  "attempt.failed",
  "attempt.finished",
  "stage.started",
  "stage.progress",
  "stage.retried",
  "stage.finished",
  "training.step",
  "training.validated",
  "message",
];
const RETRY_MS = 3000;

/**
 * Calls `seen(event)` for all events of a job so far, and for new ones. When a stream has ended, `goOn()` says,
 * perhaps by a promise, whether to open another. Returns {stop, again}: `again` follows a job that runs again
 * after its end.
 *
 * Browsers allow few connections to one host, so a hidden tab has none, and continues where it was when shown.
 */
export function follow(job, { seen, goOn }) {
  const ended = new AbortController();
  let source = null;
  let last = 0;
  let over = false;

  function open() {
    if (source || over || ended.signal.aborted || document.hidden) return;
    source = new EventSource(`/jobs/${job}/events?follow=true&after=${last}`);
    for (const type of TYPES) source.addEventListener(type, take);
    source.addEventListener("error", interrupted);
  }

  function take(message) {
    const event = JSON.parse(message.data);
    if (event.id <= last) return;
    last = event.id;
    seen(event);
  }

  function close() {
    source?.close();
    source = null;
  }

  async function interrupted() {
    // A stream that ended and one that broke look the same, so the job's status decides.
    const broken = source?.readyState === EventSource.CLOSED;
    if (!(await goOn())) {
      over = true;
      close();
    } else if (broken && !ended.signal.aborted) {
      close();
      setTimeout(open, RETRY_MS);
    }
  }

  function turned() {
    if (document.hidden) close();
    else open();
  }

  document.addEventListener("visibilitychange", turned, { signal: ended.signal });
  open();
  return {
    again() {
      over = false;
      open();
    },
    stop() {
      ended.abort();
      close();
    },
  };
}
