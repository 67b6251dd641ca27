// Scrolling of boxes that grow at their end.

const NEAR = 24; // pixels

/** Run `change`, and scroll to the end of `box` if it was in view before. */
export function stickToEnd(box, change) {
  const wasAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR;
  change();
  if (wasAtEnd) box.scrollTop = box.scrollHeight;
}
