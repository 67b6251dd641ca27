"""The `secateur` command: one file per group of commands, and how their results are printed.
It speaks to a service through `client/`, or starts a process of `workers/local/` on this machine.
It imports neither torch nor Ray, and decides nothing that the service decides."""
