"""The error of this package."""


class SparseError(Exception):
    """A file, directory or request cannot be used. The message says what is wrong, and what to do."""
