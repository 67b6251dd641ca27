"""The walk over a model's decoder blocks: the work of one worker, and the loops that measure, prune and
evaluate. The loops call a `Crew`, which may run in this process or on a Ray cluster; the bits are the same.
Methods and formulas live in `methods/` and `tensor/`; nothing here imports Ray."""
