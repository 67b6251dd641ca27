"""The math: pure functions on tensors, and the Triton kernels beside them.
Each file opens with the legend of its shapes and names its paper.
It imports neither storage nor checkpoints nor specs, and nothing here reads or writes a file."""
