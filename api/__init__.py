"""The door of the service: HTTP routes, the database, the dispatcher and the scheduler, the command and the
Python client. It delegates to `pipeline`, and speaks to Ray through its Jobs REST interface only. It imports
neither torch nor Ray."""
