"""Vocabularies cut to the tokens that a corpus uses: tokens are counted and chosen, tokenizer files are
rewritten, and the result is proved on held-out texts. Weights are cut by `structure/` and `checkpoint/`.
Nothing here knows how a job shares the counting out."""
