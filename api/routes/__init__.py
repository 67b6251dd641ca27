"""The HTTP routes. Each parses a request, calls `service/` and returns the answer."""
