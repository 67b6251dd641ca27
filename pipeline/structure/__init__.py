"""Structured pruning: the sizes of a model, scores of its channels, heads, experts and blocks, and the cut.
A criterion is one file and a name in `criteria.py`. Which tensors take indices from a cut follows from
`architecture/`; the bytes are cut in `checkpoint/slicing.py`."""
