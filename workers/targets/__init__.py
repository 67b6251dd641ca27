"""The programs that serve a model, one file per kind: how the checkpoint is written for them, and how a fresh
process opens it there, answers prompts and is timed. `child.py` is that process, and `opened.py` starts it.
What a child imports is the standard library and its program alone, because vLLM has a Python of its own."""
