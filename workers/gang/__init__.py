"""Ray actors that walk the blocks together: they start once for an attempt, stay between stages, and end.
The loops of `pipeline/blocks/` call them through `RayCrew`.
The loops and the math live in `pipeline`; this folder only carries calls, results and failures."""
