"""The HTTP routes. Each parses a request, calls `service/` and returns the answer.
`access.py` and the table in `app.py` decide who may call a route. No query is written here."""
