"""The `secateur` command: one file per group of commands, and files that print results.
Commands call a service through `client/`, or start a process of `workers/local/` on this machine.
This folder imports neither torch nor Ray, and repeats no decision of the service."""
