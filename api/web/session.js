// Who looks at the page.

import { ApiError, get } from "./api.js";

let caller = null;

/** Ask who we are. Raises ApiError 401 when a key is needed. */
export async function loadCaller() {
  try {
    caller = await get("/keys/me", { quiet401: true });
  } catch (error) {
    caller = null;
    if (error instanceof ApiError && error.status === 404)
      caller = { name: "anyone", role: "admin", prefix: null };
    else throw error;
  }
  return caller;
}

/** Whether buttons that change something make sense. */
export function mayChange() {
  return caller !== null && caller.role !== "viewer";
}
