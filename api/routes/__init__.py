"""HTTP: parse, delegate, return."""
