"""Does the work of a job: the driver of an attempt, the stages, the gang of actors, the training.
Ray, DeepSpeed and lm-eval are imported here and nowhere else.
It never imports `api`; algorithms live in `pipeline`."""
