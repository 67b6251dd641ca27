"""The walk over a model's decoder blocks: a worker's share of it, and the loops that measure, prune and
evaluate. The loops speak to a `Crew`, which may be in this process or on a Ray cluster; the bits are the
same. Methods and formulas live in `methods/` and `tensor/`; nothing here imports Ray."""
