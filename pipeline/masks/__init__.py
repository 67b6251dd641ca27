"""Masks as separate files, their overlap with other masks, and the zeros certificate of published
checkpoints. Masks are applied to dense checkpoints here, and published files are read back as a consumer
would read them. The choice of masks lives in `methods/`, their bit patterns in `tensor/`."""
