// The details of one stage of a job.

import { h } from "../dom.js";
import { bytes, count, figure, seconds } from "../format.js";

/** The elements for a stage and its NodeResult, which is null until the stage is done. */
export function stageDetails(stage, result) {
  const facts = [
    ["Status", stage.status],
    ["Kind", stage.stage],
    ["Needs", stage.needs.join(", ") || "nothing", "wide"],
    stage.total > 0 && ["Progress", `${count(stage.done)} of ${count(stage.total)} ${stage.unit}`],
    stage.note && ["Note", stage.note, "wide"],
    ...(result ? made(result) : []),
  ];
  const shown = facts
    .filter(Boolean)
    .map(([name, value, width]) => h("div", { class: width }, h("dt", null, name), h("dd", null, value)));
  return [h("h3", null, stage.node), h("dl", { class: "facts" }, shown)];
}

function made({ key, cached, artifacts, measured }) {
  const figures = Object.entries(measured.details).map(([name, value]) => figure(name, value));
  return [
    [cached ? "Cost when it was made" : "Cost", seconds(measured.seconds)],
    measured.peak_memory_bytes !== null && ["Peak memory", bytes(measured.peak_memory_bytes)],
    measured.device && ["GPU", measured.device],
    figures.length > 0 && ["Measured", figures.join(", "), "wide"],
    ["Artifacts", Object.entries(artifacts).map(sized).join(", ") || "none", "wide"],
    ["Stage key", h("code", null, key), "wide"],
  ];
}

function sized([name, { files }]) {
  const size = files.reduce((sum, file) => sum + file.blob.size, 0);
  return `${name} (${files.length} ${files.length === 1 ? "file" : "files"}, ${bytes(size)})`;
}
