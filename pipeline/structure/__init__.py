"""Structured pruning: the rules for the channels, heads, experts, blocks and tokens of a model that stay."""
