"""The door: HTTP in front of the pipeline, the database of jobs, and what hands them to Ray."""
