"""The API from Python: `SecateurClient`, downloads and server-sent events.
It shares its models with the service and needs nothing else of it.
It prints nothing."""
