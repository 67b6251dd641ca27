"""What stages make: one reference class per kind of artifact, and the documents that such artifacts hold.
They are plain data, which every process can read without torch.
How a document is computed, and how it is shown, stands elsewhere."""
