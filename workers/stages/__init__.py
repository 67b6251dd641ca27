"""The runners of stages, one file per kind: `run` takes the stage and its inputs, yields progress, and ends
with the artifacts. Everything that a stage computes is a call into `pipeline`. Placement, retries and the
cache belong to the driver, not to a stage."""
