"""API keys in the database: they are made, listed, revoked and checked here, and so are the first keys of an
installation. A secret leaves this folder once, in the answer to its making.
The roles that routes need are in `routes/access.py`."""
