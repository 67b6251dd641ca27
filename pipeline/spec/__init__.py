"""The closed parts of a spec: model, texts, patterns, recovery training, evaluation, structure, vocabulary.
Each file has a few pydantic models, with the checks that need no other part. Checks across parts live in
`request/`; methods and allocations, to which anybody may add, have folders of their own."""
