"""What a prune job is: specs, the DAG, keys, job state and the math. No cluster, no web server."""

__version__ = "0.1.0"
