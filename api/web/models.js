// The models that a job compares, in order.

/** The models for which any comparison has a figure. Older reports have no recovered one. */
export function models(comparisons) {
  return ["dense", "pruned", "recovered"].filter((name) =>
    comparisons.some((one) => (one[name] ?? null) !== null),
  );
}

/** The name of a model as the head of a column. */
export function capital(name) {
  return name[0].toUpperCase() + name.slice(1);
}

/** The same as pipeline.comparison.Comparison.title. */
export function titled({ name, per }) {
  return per === "byte" ? `${name}, per byte` : name;
}
