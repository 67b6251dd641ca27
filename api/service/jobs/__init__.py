"""Jobs in the database: they are accepted, found, cancelled and retried here, with their attempts, events,
logs, artifacts and plans. Every change of a job's state is one transaction on the locked job. Routes and
background threads call these functions; nothing here knows HTTP."""
