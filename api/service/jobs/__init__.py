"""Jobs in the database: accepted, found, cancelled, retried; their attempts, events, logs, artifacts and
plans. Every change of a job's state is one transaction on the locked job. Routes and background loops call
these functions; nothing here knows HTTP."""
