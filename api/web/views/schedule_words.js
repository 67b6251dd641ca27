// Descriptions of schedules in words.

/** The causes for which a schedule starts jobs, in one line. */
export function when({ cron, on_new_checkpoint: watch }) {
  const at = cron ? `${cron.expression} (${cron.timezone})` : null;
  const seen = watch ? `new checkpoints below ${watch.source}` : null;
  return at && seen ? `${seen}, at ${at}` : (at ?? seen ?? "");
}

const MISSED = {
  run_once: "a moment that no service was there for is made up for, once",
  skip: "a moment that no service was there for is left out",
};
const OVERLAP = {
  queue: "jobs queue one after the other",
  skip: "nothing starts while a job has not ended",
  cancel: "a new job cancels the one before",
};

/** The policies of a schedule in one line. */
export function policies({ missed, overlap }) {
  return `${MISSED[missed] ?? missed}; ${OVERLAP[overlap] ?? overlap}`;
}
