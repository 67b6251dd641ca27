// The request of a job, as a file that `secateur submit` takes.

import { h, say } from "../dom.js";
import { yaml } from "../yaml.js";

const SAID_MS = 2000;

/** Returns {node, update(job)}. */
export function specText() {
  const text = h("pre", { class: "spec", tabindex: 0, "aria-label": "Spec" });
  const copy = h("button", { type: "button", click: copied }, "Copy");

  async function copied() {
    try {
      await navigator.clipboard.writeText(text.textContent);
      say(copy, "Copied");
    } catch {
      getSelection().selectAllChildren(text); // without https there is no clipboard, so select the text for Ctrl-C
      say(copy, "Selected");
    }
    setTimeout(() => say(copy, "Copy"), SAID_MS);
  }

  function update({ spec, resources, labels, name, priority }) {
    say(text, yaml({ name, spec, resources, labels, priority: priority || null }));
  }

  return { node: h("div", { class: "spec-panel" }, copy, text), update };
}
