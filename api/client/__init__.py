"""The Python client of the API: `SecateurClient`, downloads and server-sent events.
It shares the models of answers with the service, and nothing else.
It prints nothing."""
