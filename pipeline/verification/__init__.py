"""Checks a published directory as it was read back from storage: its bytes, weights and documents.

May not import Ray or FastAPI."""
