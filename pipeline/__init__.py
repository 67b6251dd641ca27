"""A prune job: its spec, DAG, keys and state, and the math. No cluster and no web server are known here, and
no environment variable is read. The folders import downwards only, in the order that pyproject.toml says."""

__version__ = "0.1.0"
