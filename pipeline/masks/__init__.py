"""Masks as files of their own, their overlap with others, and the zeros certificate of what is published.
They are put on dense checkpoints here, and published files are read back as a consumer would.
How masks are chosen stands in `methods/`, the bit patterns in `tensor/`."""
