// Tabs as the ARIA practices describe them: arrow keys move between them, and one panel is shown.

import { attr, h, show } from "./dom.js";

/**
 * Makes tabs. `parts`: [{name, label, node, open?(), close?()}]; a part is opened when it becomes visible, and
 * closed when hidden. `chosen(name)` is called when the user chooses a tab. Returns {node, choose(name), close()}.
 */
export function tabs(label, parts, chosen) {
  const buttons = parts.map((part) =>
    h(
      "button",
      {
        ...{ type: "button", role: "tab", id: `tab-${part.name}`, "aria-controls": `panel-${part.name}` },
        ...{ click: () => take(part.name), keydown: moved },
      },
      part.label,
    ),
  );
  const panels = parts.map((part) =>
    h(
      "div",
      { role: "tabpanel", id: `panel-${part.name}`, "aria-labelledby": `tab-${part.name}` },
      part.node,
    ),
  );
  let current = null;

  function choose(name) {
    if (!parts.some((part) => part.name === name)) name = parts[0].name;
    if (name === current) return;
    parts.find((part) => part.name === current)?.close?.();
    current = name;
    parts.forEach((part, i) => {
      attr(buttons[i], "aria-selected", String(part.name === name));
      attr(buttons[i], "tabindex", part.name === name ? 0 : -1);
      show(panels[i], part.name === name);
    });
    parts.find((part) => part.name === name).open?.();
  }

  function take(name) {
    choose(name);
    chosen(name);
  }

  function moved(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (buttons.indexOf(event.target) + step + buttons.length) % buttons.length;
    buttons[next].focus();
    take(parts[next].name);
  }

  return {
    node: h("div", { class: "tabs" }, h("div", { role: "tablist", "aria-label": label }, buttons), panels),
    choose,
    close: () => parts.find((part) => part.name === current)?.close?.(),
  };
}
