// Formats quantities and moments for people. Quantities look as in the report (pipeline/report/quantity.py).

const BYTES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** 1536 → `1.5 KiB`. */
export function bytes(size) {
  let power = 0;
  while (Math.abs(size) >= 1024 && power < BYTES.length - 1) {
    size /= 1024;
    power += 1;
  }
  return power === 0 ? `${size.toFixed(0)} B` : `${size.toFixed(1)} ${BYTES[power]}`;
}

/** 0.42 → `0.4 s`, 75 → `1 min 15 s`, 7325 → `2 h 02 min`. */
export function seconds(value) {
  if (value < 9.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

/** A perplexity with two decimals, or fewer if it is large. */
export function perplexity(value) {
  if (value < 1000) return value.toFixed(2);
  return value < 1e7 ? grouped(value, 0) : scientific(value);
}

/** A task's figure with four decimals, or fewer if it is large. */
export function metric(value, { sign = false } = {}) {
  if (value === null || value === undefined) return "–";
  const plus = sign && value >= 0 ? "+" : "";
  if (Math.abs(value) < 100) return plus + value.toFixed(4);
  return plus + (Math.abs(value) < 1e7 ? grouped(value, 1) : scientific(value));
}

/** A measured figure in the unit at the end of its name: `idle_memory_bytes` → `idle memory 421 MiB`. */
export function figure(name, value) {
  const words = (ending) => name.slice(0, name.length - ending.length).replaceAll("_", " ");
  if (name.endsWith("_bytes")) return `${words("_bytes")} ${bytes(value)}`;
  if (name.endsWith("_seconds")) return `${words("_seconds")} ${seconds(value)}`;
  const [whole, ...rest] = plain(value).split(/(?=[.e])/);
  return `${words("")} ${[grouped(Number(whole), 0), ...rest].join("")}`;
}

/** A number with at most so many significant digits, without trailing zeros, like Python's :g. */
export function plain(value, digits = 6) {
  const size = Math.abs(value);
  if (size === 0 || (size >= 1e-4 && Number(size.toPrecision(digits)) < 10 ** digits)) {
    return String(Number(value.toPrecision(digits)));
  }
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  return `${Number(mantissa)}e${power[0]}${two(power.slice(1))}`;
}

/** A count with all of its digits. */
export function count(value) {
  return Number.isInteger(value) ? grouped(value, 0) : plain(value);
}

/** A share in [0, 1] as percent, rounded down, so that only all is 100 %. */
export function percent(share) {
  return `${Math.floor(share * 100 + 1e-9)} %`;
}

/** A count with at most three digits: 20000000 → `20M`, 65536 → `65.5k`. */
export function short(value) {
  for (const [size, letter] of [
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "k"],
  ])
    if (value >= size * 0.9995) return `${Number((value / size).toPrecision(3))}${letter}`;
  return value.toFixed(0);
}

/** The pruning and the training of a spec in one line (as in pipeline/report/summary.py). */
export function recipe(spec) {
  if (!spec) return "unknown"; // another version of Secateur stored it
  return [...pruning(spec.prune), ...learning(spec.prune?.method), ...training(spec.recovery)].join(" · ");
}

function pruning(prune) {
  if (!prune) return [];
  const { method, allocation, pattern } = prune;
  const kept =
    pattern.kind === "nm" ? `${pattern.keep}:${pattern.group}` : `unstructured ${plain(pattern.sparsity)}`;
  return [methodWords(method), allocation?.kind ?? "uniform", kept];
}

/** A method in words. Learned methods have a training, others have none. */
function methodWords({ kind, prior, training }) {
  if (!training || prior === null) return kind;
  const from = prior?.kind ?? "wanda";
  return `${kind} from ${from === "stored" ? "stored masks" : from}`;
}

/** The learning of masks in words: the objective if it is distillation, the scope, and the budget. */
function learning(method) {
  if (!method?.training) return [];
  const { objective, scope, epochs = 1 } = method.training;
  const words = objective?.kind === "distillation" ? [towards(objective)] : [];
  if (scope === "block") words.push("block by block");
  words.push(`${budget(method.training)}${epochs > 1 ? ` × ${epochs}` : ""}`);
  return [words.join(", ")];
}

/** A recovery in words. The spec of a schedule may leave out fields with a default. */
function training(recovery) {
  if (!recovery) return [];
  const { objective, trains, keep } = recovery;
  const kind = trains?.kind ?? "full";
  const blockwise = kind === "reconstruction";
  const words = blockwise ? [] : [towards(objective)];
  words.push(kind === "lora" ? `lora ${trains.rank ?? 16}` : kind.replaceAll("_", " "));
  if (keep?.kind === "dynamic") words.push("dynamic zeros");
  if (keep?.kind === "gradual") words.push(`gradual to ${plain(keep.sparsity)}`);
  words.push(`${budget(recovery)}${blockwise ? ` × ${trains.epochs ?? 4}` : ""}`);
  return [words.join(", ")];
}

/** The tokens of a training in words, in whole steps. */
function budget({ text, tokens, steps, global_batch_size: batch = 64 }) {
  const each = batch * (text.sequence_length ?? 2048);
  return `${short((steps ?? Math.ceil(tokens / each)) * each)} tokens`;
}

function towards(objective) {
  const words = (objective?.kind ?? "language_modelling").replaceAll("_", " ");
  const teacher = objective?.teacher?.source;
  if (!teacher) return words;
  return `${words} from ${teacher.startsWith("hub:") ? teacher.slice(4) : shortSource(teacher)}`;
}

/** The last part of a source: `s3://checkpoints/nightly/llama-7b` → `llama-7b`. */
export function shortSource(source) {
  return (
    source
      .replace(/^[a-z0-9]+:/, "")
      .replace(/\/+$/, "")
      .split("/")
      .pop() || source
  );
}

/** Unix seconds as local date and time, or in a time zone. */
export function moment(at, timeZone) {
  const options = { dateStyle: "medium", timeStyle: "medium", ...(timeZone ? { timeZone } : {}) };
  return new Intl.DateTimeFormat("en-GB", options).format(new Date(at * 1000));
}

/** Unix seconds as local time of the day. */
export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

/** The distance of a moment from now: `just now`, `5 min ago`, `in 3 h`. */
export function relative(at, now = Date.now() / 1000) {
  const away = Math.abs(now - at);
  if (away < 5) return "just now";
  const words = coarse(away);
  return at < now ? `${words} ago` : `in ${words}`;
}

function coarse(away) {
  if (away < 60) return `${Math.floor(away)} s`;
  if (away < 3600) return `${Math.floor(away / 60)} min`;
  if (away < 48 * 3600) return `${Math.floor(away / 3600)} h`;
  return `${Math.floor(away / 86400)} days`;
}

function two(value) {
  return String(value).padStart(2, "0");
}

function grouped(value, decimals) {
  return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

function scientific(value) {
  return value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
}
