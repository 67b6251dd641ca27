// The form that asks for a key.

import { post } from "../api.js";
import { fill, h, say } from "../dom.js";

/** Show the form in `main`; `signedIn` is called when the service has accepted the key. */
export function signIn(main, signedIn) {
  document.title = "Sign in · Secateur";
  const problem = h("p", { class: "problem", role: "alert" });
  const key = h("input", {
    ...{ id: "key", name: "key", type: "password", required: true, spellcheck: "false" },
    ...{ autocomplete: "current-password", "aria-describedby": "key-hint" },
  });
  const button = h("button", { type: "submit", class: "primary" }, "Sign in");
  const hint = h(
    "p",
    { id: "key-hint", class: "soft" },
    "On the machine that runs the service, a key is in the file ",
    h("code", null, "api-key"),
    " of its state directory (by default ",
    h("code", null, ".secateur/api-key"),
    "). Elsewhere an admin makes one: ",
    h("code", null, "secateur keys create"),
    ". The browser keeps it until it is closed.",
  );

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    try {
      await post("/session", { key: key.value.trim() }, { quiet401: true });
    } catch (error) {
      say(problem, error.message);
      button.disabled = false;
      key.select();
      return;
    }
    signedIn();
  }

  fill(
    main,
    h(
      "form",
      { class: "sign-in", submit },
      h("h1", null, "Sign in"),
      h("label", { for: "key" }, "API key"),
      h("input", {
        type: "text",
        name: "username",
        value: "secateur",
        autocomplete: "username",
        hidden: true,
      }), // password managers need it
      h("div", { class: "row" }, key, button),
      problem,
      hint,
    ),
  );
  key.focus();
}
