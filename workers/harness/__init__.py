"""lm-eval within the limits of a job: data at fixed commits, no foreign code, and reported progress."""
