"""lm-eval, held to what a job may do: data at fixed commits, no code from elsewhere, progress told."""
