// The artifacts of a job, file by file, with digests and downloads.

import { get } from "../api.js";
import { h, keyed, say, show } from "../dom.js";
import { bytes } from "../format.js";

const OPEN_KINDS = new Set(["manifest", "report"]); // most users look for these
const SHORT = 12;

/** Makes the list of the job at `path`, fetched while open. Returns {node, update(job), open(), close()}. */
export function artifactList(path) {
  const list = h("div", { class: "artifacts" });
  const message = h("p", { class: "calm-message" });
  let isOpen = false;
  let wanted = "";
  let fetched = null;

  function update(job) {
    wanted = job.stages
      .filter((stage) => stage.finished_at)
      .map((stage) => `${stage.node} ${stage.finished_at}`)
      .join();
    refresh();
  }

  async function refresh() {
    if (!isOpen || fetched === wanted) return;
    const asked = (fetched = wanted);
    try {
      const { data } = await get(`${path}/artifacts`);
      if (asked !== fetched) return;
      keyed(list, data, (one) => `${one.node}/${one.artifact}/${one.digest}`, artifact);
      say(message, "Nothing has been made yet.");
      show(message, data.length === 0);
    } catch (error) {
      fetched = null;
      say(message, error.message);
      show(message, true);
    }
  }

  return {
    node: h("div", null, message, list),
    update,
    open() {
      isOpen = true;
      refresh();
    },
    close() {
      isOpen = false;
    },
  };
}

function artifact({ node, artifact: name, kind, digest, size, cached, files }) {
  const count = files.length === 1 ? "1 file" : `${files.length} files`;
  const heads = ["File", "Size", "SHA-256"].map((head) => h("th", { scope: "col" }, head));
  const table = h(
    "table",
    { class: "figures files" },
    h("thead", null, h("tr", null, heads)),
    h("tbody", null, files.map(file)),
  );
  const made = h(
    "details",
    { open: OPEN_KINDS.has(kind), "data-artifact": `${node}/${name}` },
    h(
      "summary",
      null,
      h(
        "span",
        { class: "name" },
        h("b", null, name),
        h("span", { class: "soft" }, ` of ${node}${cached ? ", cached" : ""}`),
      ),
      h("span", { class: "soft" }, `${count}, ${bytes(size)}`),
      h("code", { title: `digest of the artifact: ${digest}` }, digest.slice(0, SHORT)),
    ),
    h("div", { class: "scroll" }, table),
    h("p", { class: "soft digest-line" }, "Digest ", h("code", null, digest)),
  );
  return { node: made, update: () => {} };
}

function file({ path, size, sha256, url }) {
  return h(
    "tr",
    null,
    h("th", { scope: "row" }, h("a", { href: url, download: path.split("/").pop() }, path)),
    h("td", null, bytes(size)),
    h("td", null, h("code", { class: "digest" }, sha256)),
  );
}
