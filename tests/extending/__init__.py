"""Additions to a copy of the packages: how many files a person edits by hand, and whether each one works."""
