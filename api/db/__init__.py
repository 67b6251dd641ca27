"""The database of the service: jobs, attempts, events, schedules and keys."""
