"""Checkpoints of Hugging Face, read and written one tensor at a time, with a digest for every tensor.
Importing, slicing and exporting live here, and the stream that holds one decoder block in memory.
What becomes of a tensor is decided by its callers: no method, no allocation and no spec is known here."""
