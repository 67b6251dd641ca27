"""The functions that routes and background threads call: jobs, schedules, keys and health."""
