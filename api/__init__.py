"""The service: HTTP in front of the pipeline, the database of jobs, and the threads that hand jobs to Ray."""
