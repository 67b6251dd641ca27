"""The processes that do the work of a job: the driver of an attempt, stages, the gang of actors, training.
Ray, DeepSpeed and lm-eval are imported here and nowhere else.
Nothing here imports `api`; algorithms live in `pipeline`."""
