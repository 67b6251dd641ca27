"""lm-eval within the limits of a job: data at fixed commits, no foreign code, and reported progress.
Its version is part of every figure. `pipeline/evaluation/` decides what a figure depends on, and when two
figures may be compared."""
