"""Opens a published directory in a fresh process, as somebody who has downloaded it would do it. That process
knows the directory and nothing of the job's storage."""
