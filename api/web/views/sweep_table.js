// A table of the members of a sweep.

import { h } from "../dom.js";
import { perplexity, seconds } from "../format.js";
import { titled } from "../models.js";

/** Makes the table of the report's members. Bold ones have no other that is as sparse and as good. */
export function sweepTable(members) {
  const texts = members[0].perplexity;
  const head = ["#", "Member", "Sparsity", ...texts.map(titled), "Masks in"];
  const dense = ["", "dense", "0", ...texts.map((text) => perplexity(text.dense)), ""];
  const rows = members.map((member) => [
    String(member.number),
    member.title,
    member.sparsity.toFixed(4),
    ...member.perplexity.map((text) => perplexity(text.pruned)),
    seconds(member.seconds),
  ]);
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": "Members of the sweep" },
    h(
      "table",
      { class: "figures", id: "sweep-table" },
      h("thead", null, h("tr", null, head.map((name, i) => h("th", { scope: "col", class: words(i) }, name)))),
      h(
        "tbody",
        null,
        row(dense),
        rows.map((cells, i) => row(cells, members[i].best)),
      ),
    ),
  );
}

function row(cells, best = false) {
  return h(
    "tr",
    null,
    cells.map((cell, i) => h("td", { class: words(i) }, best ? h("strong", null, cell) : cell)),
  );
}

function words(column) {
  return column === 1 ? "words" : null;
}
