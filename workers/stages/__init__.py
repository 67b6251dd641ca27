"""One file per kind of stage: `run` takes the stage and its inputs, yields progress, and ends with what was
made. Everything that a stage computes is a call into `pipeline`. Placement, retries and the cache belong to
the driver, not to a stage."""
