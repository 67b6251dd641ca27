"""The closed parts of a spec: model, texts, patterns, recovery training, evaluation, structure, vocabulary.
Each file is a few pydantic models with the checks that need nothing but themselves. Checks across parts
live in `request/`; methods and allocations, which anybody may add to, have folders of their own."""
