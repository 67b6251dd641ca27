"""Commands on this machine, one process each, without a cluster and without a service.
The `secateur` command starts them as `python -m workers.local.<name>`.
They call `pipeline`; what they do beyond reading arguments and showing progress belongs there."""
