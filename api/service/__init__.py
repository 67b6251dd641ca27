"""The functions that routes and background threads call: jobs, schedules, keys and health.
Each is one operation on the database, the store or Ray; `context.py` holds what all operations share.
Nothing here knows HTTP."""
