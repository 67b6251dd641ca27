// The curve of a training from its events, reduced to few enough points to draw.

const MOST_POINTS = 1000;
const WINDOW = 20; // the mean is over this many records, as in the report

/**
 * The curve of one node, whose events are added in order. A point is one step or a stretch of steps, with the
 * lowest and highest losses in it, so that no spike is lost.
 */
export class Curve {
  constructor() {
    this.total = 0;
    this.points = [];
    this.validations = [];
    this.starts = []; // steps that were the first after a restart
    this.last = null; // the latest record
    this.best = null; // the validation with the lowest loss
    this.zerosMove = false;
    this.recent = [];
  }

  /** True if another loss than the cross-entropy is minimised. */
  get isDistilled() {
    return this.last !== null && this.last.loss !== this.last.language_modelling_loss;
  }

  step({ total_steps: total, record }) {
    this.total = total;
    if (this.last && record.step <= this.last.step) this.#goBackTo(record.step);
    if (this.last && record.started > this.last.started) this.starts.push(record.step);
    if (this.last && record.zeros !== this.last.zeros && this.last.zeros !== null) this.zerosMove = true;
    this.last = record;
    this.recent.push(record);
    if (this.recent.length > WINDOW) this.recent.shift();
    const stretch = Math.floor((record.step - 1) / Math.max(Math.ceil(total / MOST_POINTS), 1));
    const point = this.points.at(-1);
    if (point?.stretch === stretch) add(point, record, this.recent);
    else this.points.push(add({ stretch }, record, this.recent));
  }

  validated({ validation }) {
    this.validations = this.validations.filter((one) => one.step < validation.step);
    this.validations.push(validation);
    this.best = this.validations.reduce((best, one) => (one.loss < best.loss ? one : best));
  }

  /** Forget the steps that are done again, because training continued from an earlier step. */
  #goBackTo(step) {
    this.points = this.points.filter((point) => point.step < step);
    this.validations = this.validations.filter((one) => one.step < step);
    this.starts = this.starts.filter((one) => one < step);
    this.recent = this.recent.filter((record) => record.step < step);
  }
}

function add(point, record, recent) {
  const mean = (name) => recent.reduce((sum, one) => sum + one[name], 0) / recent.length;
  return Object.assign(point, {
    step: record.step,
    entropy: range(point.entropy, record.language_modelling_loss),
    loss: range(point.loss, record.loss),
    meanEntropy: mean("language_modelling_loss"),
    meanLoss: mean("loss"),
    rate: record.learning_rate,
    norm: record.skipped ? (point.norm ?? null) : Math.max(point.norm ?? 0, record.gradient_norm),
    speed: record.tokens_per_second,
    memory: record.gpu_memory_bytes ?? record.memory_bytes,
    zeros: record.zeros,
  });
}

function range(known, value) {
  return known ? [Math.min(known[0], value), Math.max(known[1], value)] : [value, value];
}
