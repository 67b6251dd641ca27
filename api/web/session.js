// The user of the page.

import { ApiError, get } from "./api.js";

let caller = null;

/** Fetch the name and the role of the user's key. Raises ApiError 401 when a key is needed. */
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

/** Tells whether the user's role allows changes. */
export function mayChange() {
  return caller !== null && caller.role !== "viewer";
}
