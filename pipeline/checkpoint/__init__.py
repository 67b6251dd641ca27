"""Hugging Face checkpoints, read and written one tensor at a time, with a digest for every tensor. Importing,
slicing and exporting live here, and the stream that holds one decoder block in memory. Callers decide what
happens to a tensor: no method and no allocation is known here, and of a spec only the sizes it asks for."""
