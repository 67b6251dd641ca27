"""A prune job: its spec, DAG, keys and state, and the math. No cluster and no web server are known here."""

__version__ = "0.1.0"
