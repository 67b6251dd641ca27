// Dialogs that ask before something is changed.

import { h, say } from "./dom.js";

/**
 * Ask, and call `act` if the answer is yes. An error of `act` is shown in the dialog, which stays open.
 * Resolves to true if `act` succeeded.
 */
export function confirm({ title, text, yes, danger = false, act }) {
  return new Promise((resolve) => {
    let done = false;
    const error = h("p", { class: "problem", role: "alert" });
    const go = h("button", { type: "submit", class: danger ? "danger" : "primary" }, yes);
    const back = h("button", { type: "button", click: () => dialog.close() }, "Back");
    const form = h(
      "form",
      { submit },
      h("h2", { id: "dialog-title" }, title),
      h("p", null, text),
      error,
      h("div", { class: "row end" }, back, go),
    );
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", close: closed }, form);

    async function submit(event) {
      event.preventDefault();
      go.disabled = true;
      try {
        await act();
        done = true;
        dialog.close();
      } catch (problem) {
        say(error, problem.message);
        go.disabled = false;
      }
    }

    function closed() {
      dialog.remove();
      resolve(done);
    }

    document.body.append(dialog);
    dialog.showModal();
  });
}
