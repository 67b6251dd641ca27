"""Cuts vocabularies to the tokens that a corpus uses: count, choose, rewrite, prove."""
