// The jobs that were fetched so far. The newest page is fetched again and again, older pages on request.

const SIZE = 25;
const MOST_SINGLE = 10;

/** The jobs of one status, or all if it is empty. Ids grow with time, so jobs are ordered by id. */
export class JobPages {
  constructor(status) {
    this.status = status;
    this.byId = new Map();
    this.known = false;
    this.hasMore = false;
    this.next = null;
  }

  /** The jobs, newest first. */
  get jobs() {
    return [...this.byId.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
  }

  /** Fetch the newest page, and one by one those older jobs that may still change. */
  async refresh(list, single) {
    const page = await list(this.#query());
    const oldest = page.has_more ? page.data.at(-1).id : "";
    const overlaps = page.data.some((job) => this.byId.has(job.id));
    if (!this.known || (page.has_more && !overlaps)) this.#begin(page);
    const fresh = new Set(page.data.map((job) => job.id));
    for (const id of this.byId.keys()) {
      if (id >= oldest && !fresh.has(id)) this.byId.delete(id); // its status has changed
    }
    for (const job of page.data) this.byId.set(job.id, job);
    const older = this.jobs.filter((job) => job.id < oldest && !job.finished_at).slice(0, MOST_SINGLE);
    for (const job of await Promise.all(older.map((job) => single(job.id)))) {
      if (this.status && job.status !== this.status) this.byId.delete(job.id);
      else this.byId.set(job.id, job);
    }
  }

  /** Fetch one more page of older jobs. */
  async older(list) {
    if (!this.hasMore) return;
    this.#end(await list(this.#query(this.next)));
  }

  #begin(page) {
    this.byId.clear();
    this.known = true;
    this.#end(page);
  }

  #end(page) {
    for (const job of page.data) this.byId.set(job.id, job);
    this.hasMore = page.has_more;
    this.next = page.next;
  }

  #query(after) {
    const query = new URLSearchParams({ limit: SIZE });
    if (this.status) query.set("status", this.status);
    if (after) query.set("after", after);
    return query;
  }
}
