"""The artifacts that stages make: one reference class per kind, and the documents that they hold.
They are plain data, which every process can read without torch.
The code that computes or shows documents lives elsewhere."""
