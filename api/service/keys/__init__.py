"""API keys in the database: made, listed, revoked and checked, and the first ones of an installation.
Secrets leave this folder once, in the answer to their making.
Which role a route asks for stands in `routes/access.py`."""
