// A picture of the DAG: one box per stage, which shows its status by shape, word, line and colour.

import { layout } from "../dag.js";
import { attr, fill, h, s, say } from "../dom.js";
import { count } from "../format.js";
import { icon, setIcon, tone } from "../status.js";

const PAD = 10;
const ICON = 16;
const CHARACTER = 7.3; // the width of a bold character at 12 pixels, rounded up
const LONGEST = 24;

/** Makes the picture. A click calls `choose(node)`. Returns {node, update(stages, chosen)}. */
export function dagPicture(choose) {
  const box = h("div", {
    class: "dag",
    role: "group",
    "aria-label": "Stages and what they need, from left to right",
    hidden: true,
  });
  let drawn = ""; // the shape of the DAG that is drawn
  let parts = new Map();

  function update(stages, chosen) {
    box.hidden = stages.length === 0;
    if (box.hidden) return;
    const shape = JSON.stringify(stages.map(({ node, needs }) => [node, needs]));
    if (shape !== drawn) {
      drawn = shape;
      parts = draw(stages);
    }
    for (const stage of stages) parts.get(stage.node).update(stage, stage.node === chosen);
  }

  function draw(stages) {
    const sized = stages.map(({ node, needs }) => ({ node, needs, width: width(node) }));
    const plan = layout(sized);
    const edges = plan.edges.map(({ from, to, path }) => ({
      from,
      to,
      line: s("path", { class: "edge", d: path }),
    }));
    const made = new Map(
      stages.map((stage) => [stage.node, nodeBox(stage, plan.nodes.get(stage.node), edges, choose)]),
    );
    fill(
      box,
      s(
        "svg",
        { width: plan.width, height: plan.height, viewBox: `0 0 ${plan.width} ${plan.height}` },
        edges.map(({ line }) => line),
        [...made.values()].map(({ node }) => node),
      ),
    );
    return made;
  }

  return { node: box, update };
}

function nodeBox(stage, { x, y, width: wide, height }, edges, choose) {
  const shape = icon(stage.status);
  for (const [name, value] of Object.entries({ x: PAD, y: 24, width: ICON - 3, height: ICON - 3 }))
    attr(shape, name, value);
  const word = s("text", { class: "word", x: PAD + ICON, y: 34 });
  const bar = s("rect", { class: "done", x: 0, y: height - 3, width: 0, height: 3 });
  const node = s(
    "g",
    {
      transform: `translate(${x} ${y})`,
      role: "button",
      tabindex: 0,
      click: chosen,
      keydown: pressed,
      "data-node": stage.node,
    },
    s("rect", { class: "box", width: wide, height, rx: 6 }),
    bar,
    s("text", { class: "name", x: PAD, y: 18 }, label(stage.node), s("title", null, stage.node)),
    shape,
    word,
  );
  const into = edges.filter((edge) => edge.to === stage.node);

  function chosen() {
    choose(stage.node);
  }

  function pressed(event) {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    chosen();
  }

  function update(stage, isChosen) {
    const counted = stage.status === "running" && stage.total > 0;
    const words = counted ? `${count(stage.done)}/${count(stage.total)} ${stage.unit}` : stage.status;
    attr(node, "class", `node ${stage.status} ${tone(stage.status)}`);
    attr(node, "aria-pressed", String(isChosen));
    attr(node, "aria-label", `${stage.node}: ${stage.status}${counted ? `, ${words}` : ""}`);
    setIcon(shape, stage.status);
    say(word, words);
    attr(bar, "width", counted ? (wide * stage.done) / stage.total : 0);
    for (const { line } of into) attr(line, "class", stage.status === "pending" ? "edge" : "edge taken");
  }

  return { node, update };
}

/** `tasks:pruned:arc_easy` → `arc_easy (pruned)`; long names lose their middle. */
function label(node) {
  const [, which, name] = /^tasks:([^:]+):(.+)$/.exec(node) ?? [];
  const text = name ? `${name} (${which})` : node;
  if (text.length <= LONGEST) return text;
  const kept = (LONGEST - 1) / 2;
  return `${text.slice(0, Math.ceil(kept))}…${text.slice(-Math.floor(kept))}`;
}

function width(node) {
  return Math.max(108, Math.ceil(label(node).length * CHARACTER) + 2 * PAD);
}
