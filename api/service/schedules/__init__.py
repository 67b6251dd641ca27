"""Schedules in the database: their firings, what is looked for, gates, aliases and leases.
A firing is opened, started and closed here; the loop that calls it is in `background/`.
Nothing here knows HTTP."""
