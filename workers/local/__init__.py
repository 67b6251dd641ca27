"""Commands on this machine, one process each, and the site of a job in one process; no cluster, no service.
The `secateur` command starts the commands as `python -m workers.local.<name>`.
They read arguments, call `pipeline` and show progress; everything else belongs into `pipeline`."""
