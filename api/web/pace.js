// The speed of stages, from the first progress that an attempt reported to the latest one.

/** The paces of a job's stages. All events of the job are added in order. */
export class Paces {
  constructor() {
    this.byNode = new Map();
  }

  see({ at, body }) {
    const when = Date.parse(at) / 1000;
    if (body.type === "attempt.started") this.byNode.clear();
    else if (body.type === "stage.started" || body.type === "stage.retried") this.byNode.delete(body.node);
    else if (body.type === "stage.progress") {
      const before = this.byNode.get(body.node);
      const begun = before && body.done >= before.done ? before : { firstDone: body.done, firstAt: when };
      this.byNode.set(body.node, {
        firstDone: begun.firstDone,
        firstAt: begun.firstAt,
        done: body.done,
        at: when,
      });
    }
  }

  /** Returns {perSecond, remaining} in units and seconds; null before two different reports of progress. */
  of({ node, total }) {
    const pace = this.byNode.get(node);
    if (!pace || pace.at <= pace.firstAt || pace.done <= pace.firstDone) return null;
    const perSecond = (pace.done - pace.firstDone) / (pace.at - pace.firstAt);
    return { perSecond, remaining: Math.max((total - pace.done) / perSecond, 0) };
  }
}
