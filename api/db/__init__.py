"""What the service remembers: jobs, their attempts and their events."""
