// The models that a job compares, in order.

/** Those that any of the comparisons has a figure for. Older reports know no recovered one. */
export function models(comparisons) {
  return ["dense", "pruned", "recovered"].filter((name) =>
    comparisons.some((one) => (one[name] ?? null) !== null),
  );
}

/** As the head of a column. */
export function capital(name) {
  return name[0].toUpperCase() + name.slice(1);
}

/** As pipeline.comparison.Comparison.title. */
export function titled({ name, per }) {
  return per === "byte" ? `${name}, per byte` : name;
}
