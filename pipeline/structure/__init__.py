"""Structured pruning: which channels, heads, experts, blocks and tokens of a model stay."""
