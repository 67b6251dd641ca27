// Calls of the API. The key is in a cookie that this page cannot read.

/** An answer with a status from 400 upwards. */
export class ApiError extends Error {
  constructor(status, { code = "unknown", message = "", param = null } = {}) {
    super(message || `the service answered ${status}`);
    Object.assign(this, { status, code, param });
  }
}

/** The service did not answer. */
export class AwayError extends Error {}

let unauthorized = () => {};

/** Set the function that is called when a key is needed. */
export function onUnauthorized(handler) {
  unauthorized = handler;
}

/** GET a path; returns its JSON. Raises ApiError or AwayError. */
export function get(path, options) {
  return call("GET", path, options);
}

/** POST to a path; returns the JSON of the answer, or null if it has none. */
export function post(path, body, options) {
  return call("POST", path, { ...options, body });
}

/** DELETE a path. */
export function remove(path) {
  return call("DELETE", path);
}

/** The text of an answer, chunk by chunk as it arrives. */
export async function* text(path, { signal } = {}) {
  const answer = await send("GET", path, { signal });
  if (!answer.ok) await refuse(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    throw signal?.aborted ? error : new AwayError(error.message);
  }
}

async function call(method, path, { body, signal, quiet401 = false } = {}) {
  const answer = await send(method, path, { body, signal });
  if (!answer.ok) await refuse(answer, quiet401);
  return answer.status === 204 ? null : answer.json();
}

async function send(method, path, { body, signal }) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new AwayError(error.message);
  }
}

async function refuse(answer, quiet401 = false) {
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401 && !quiet401) unauthorized();
  throw new ApiError(answer.status, said.error);
}
