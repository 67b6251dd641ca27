"""Schedules in the database, with their firings, watched checkpoints, gates, aliases and leases.
Firings are opened, started and closed here; the loop that calls these functions is in `background/`.
Nothing here knows HTTP."""
