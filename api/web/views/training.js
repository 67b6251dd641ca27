// The progress of a training, of masks or after pruning: its figures and its curves.

import { Curve } from "../curve.js";
import { curveChart } from "../curve_chart.js";
import { fillIfNew, h, keyed, show } from "../dom.js";
import { bytes, count, perplexity, plain } from "../format.js";

const AT_MOST_EVERY_MS = 200;
const NARROW = 560;
const TITLES = { learn_masks: "Mask learning", recover: "Recovery training" }; // by stage

/** Returns {node, see(event)}. The node is hidden until a stage of the job has trained. */
export function training() {
  const curves = new Map(); // node → Curve
  const stages = new Map(); // node → kind of stage
  const node = h("section", { "aria-label": "Training", hidden: true });
  let timer = null;

  new ResizeObserver(soon).observe(node);

  function see({ body }) {
    if (body.type === "attempt.started") for (const one of body.nodes) stages.set(one.node, one.stage);
    if (body.type !== "training.step" && body.type !== "training.validated") return;
    if (!curves.has(body.node)) curves.set(body.node, new Curve());
    const curve = curves.get(body.node);
    if (body.type === "training.step") curve.step(body);
    else curve.validated(body);
    soon();
  }

  function soon() {
    timer ??= setTimeout(() => {
      timer = null;
      draw();
    }, AT_MOST_EVERY_MS);
  }

  function draw() {
    const begun = [...curves].filter(([, curve]) => curve.last !== null);
    show(node, begun.length > 0);
    keyed(
      node,
      begun,
      ([name]) => name,
      ([name]) => card(name, stages.get(name)),
    );
  }

  return { node, see };
}

function card(name, stage) {
  const facts = h("dl", { class: "tiles" });
  const pictures = h("div", { class: "curve-panels" });
  const node = h("div", { "data-training": name }, h("h2", null, TITLES[stage] ?? "Training"), facts, pictures);

  function update([, curve]) {
    const shown = figures(curve);
    fillIfNew(facts, shown, () => shown.map(tile));
    const width = node.clientWidth;
    if (width > 0)
      fillIfNew(pictures, [width, curve.last, curve.validations.length], () => panels(curve, width, stage));
  }

  return { node, update };
}

function figures({ last, total, points, validations, best, isDistilled }) {
  const { meanEntropy, meanLoss } = points.at(-1);
  const memory = last.gpu_memory_bytes ?? last.memory_bytes;
  const first = validations[0];
  const now = validations.at(-1);
  return [
    ["Step", `${count(last.step)} of ${count(total)}`, `learning rate ${plain(last.learning_rate, 3)}`],
    [
      "Training loss",
      (isDistilled ? meanLoss : meanEntropy).toFixed(4),
      isDistilled ? `cross-entropy ${meanEntropy.toFixed(4)}` : "cross-entropy, mean of 20 steps",
    ],
    now && [
      "Perplexity, held-out text",
      now.step > first.step ? `${perplexity(first.perplexity)} → ${perplexity(now.perplexity)}` : perplexity(now.perplexity),
      now === best || now.step === first.step ? `after step ${count(now.step)}` : `best ${perplexity(best.perplexity)} at step ${count(best.step)}`,
    ],
    ["Tokens per second", count(Math.round(last.tokens_per_second)), on(last.workers)],
    ["Gradient norm", last.skipped ? "skipped" : plain(last.gradient_norm, 3), "before clipping"],
    memory !== null && ["Peak memory", bytes(memory), last.gpu_memory_bytes === null ? "of one worker" : "of one GPU"],
    last.zeros !== null && ["Zeros held", count(last.zeros), "weights, at the last check"],
  ].filter(Boolean);
}

function on(workers) {
  return `on ${workers} ${workers === 1 ? "worker" : "workers"}`;
}

function tile([name, value, small]) {
  return h("div", null, h("dt", null, name), h("dd", null, value, h("small", null, small)));
}

/** The loss over the whole width, and below it small panels, one or three in a row. */
function panels(curve, width, stage) {
  const { points, validations, starts, total } = curve;
  const marks = starts.map((step) => ({ step, label: `went on at step ${step}` }));
  const of = (name) => points.map((point) => [point.step, point[name]]);
  const raw = (name) => points.flatMap((point) => ends(point[name]).map((value) => [point.step, value]));
  const dots = validations.map(({ step, loss, perplexity: value }) => ({
    name: "validation",
    step,
    value: loss,
    label: `step ${step}: ${loss.toFixed(4)}, perplexity ${perplexity(value)}`,
  }));
  const beside = width > 2 * NARROW && curve.isDistilled;
  const large = { width: beside ? Math.floor((width - 24) / 2) : width, height: 240, total, marks };
  const columns = width > NARROW ? 3 : 1;
  const small = { width: Math.floor((width - 24 * (columns - 1)) / columns), height: 130, total, marks };
  return [
    curveChart({
      ...large,
      name: "loss",
      title: width > NARROW ? "Cross-entropy in nats: thin, each step; thick, mean of 20" : "Cross-entropy in nats",
      description: described(curve),
      lines: [
        { name: "raw", points: raw("entropy") },
        { name: "mean", points: of("meanEntropy") },
        { name: "validation", points: dots.map(({ step, value }) => [step, value]) },
      ],
      dots,
    }),
    curve.isDistilled &&
      curveChart({
        ...large,
        name: "minimised",
        title:
          width > NARROW && stage === "recover"
            ? "What is minimised: distance to the teacher, mixed with the cross-entropy"
            : "What is minimised",
        lines: [
          { name: "raw", points: raw("loss") },
          { name: "mean", points: of("meanLoss") },
        ],
      }),
    curveChart({ ...small, name: "rate", title: "Learning rate", lines: [{ name: "plain", points: of("rate") }], floor: 0 }),
    curveChart({
      ...small,
      name: "norm",
      title: "Gradient norm before clipping",
      lines: [{ name: "plain", points: of("norm").filter(([, value]) => value !== null) }],
    }),
    curveChart({ ...small, name: "speed", title: "Tokens per second", lines: [{ name: "plain", points: of("speed") }], floor: 0 }),
    curve.zerosMove &&
      curveChart({
        ...small,
        name: "zeros",
        title: "Weights held at zero",
        lines: [{ name: "plain", points: of("zeros").filter(([, value]) => value !== null) }],
      }),
  ];
}

function ends([low, high]) {
  return low === high ? [low] : [low, high];
}

function described({ last, total, points, validations }) {
  const mean = (point) => point.meanEntropy.toFixed(4);
  let words = `${last.step} of ${total} steps; cross-entropy from ${mean(points[0])} to ${mean(points.at(-1))}`;
  if (validations.length > 0)
    words += `; on held-out text from ${validations[0].loss.toFixed(4)} to ${validations.at(-1).loss.toFixed(4)}`;
  return words;
}
