// Writes JSON values as YAML, in a subset that every reader understands.

const PLAIN = /^[A-Za-z_/][A-Za-z0-9_./@-]*( ?[A-Za-z0-9_./@-]+)*$/;
const NOT_A_STRING = /^(true|false|yes|no|on|off|null|y|n)$/i;

/** A value as a YAML document; `null` fields and empty maps are left out. */
export function yaml(value) {
  return `${lines(pruned(value), "").join("\n")}\n`;
}

function lines(value, indent) {
  if (Array.isArray(value)) {
    return value.flatMap((item) => {
      if (isScalar(item)) return [`${indent}- ${scalar(item)}`];
      const [first, ...rest] = lines(item, `${indent}  `);
      return [`${indent}- ${first.trimStart()}`, ...rest];
    });
  }
  return Object.entries(value).flatMap(([key, inner]) => {
    const head = `${indent}${scalar(key)}:`;
    return isScalar(inner) ? [`${head} ${scalar(inner)}`] : [head, ...lines(inner, `${indent}  `)];
  });
}

function pruned(value) {
  if (Array.isArray(value)) return value.map(pruned);
  if (value === null || typeof value !== "object") return value;
  const kept = Object.entries(value).map(([key, inner]) => [key, pruned(inner)]);
  return Object.fromEntries(kept.filter(([, inner]) => inner !== null && !isEmptyMap(inner)));
}

function isEmptyMap(value) {
  return typeof value === "object" && !Array.isArray(value) && Object.keys(value).length === 0;
}

function isScalar(value) {
  return value === null || typeof value !== "object" || Object.keys(value).length === 0;
}

function scalar(value) {
  const text = JSON.stringify(value);
  if (typeof value === "string") return PLAIN.test(value) && !NOT_A_STRING.test(value) ? value : text;
  return typeof value === "number" ? text.replace(/^(-?\d+)e/, "$1.0e") : text; // 1e-7 is a string in YAML 1.1
}
