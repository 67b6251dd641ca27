// Boxes that grow at their end.

const NEAR = 24; // pixels

/** Run `change`; when the end of `box` was in view before, it is so afterwards. */
export function stickToEnd(box, change) {
  const wasAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR;
  change();
  if (wasAtEnd) box.scrollTop = box.scrollHeight;
}
