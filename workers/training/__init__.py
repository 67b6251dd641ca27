"""Training under Ray Train and DeepSpeed ZeRO: the student, the guard of its zeros, checkpoints, curves and
trackers. `engine.py` is the only file that knows how DeepSpeed keeps parameters. The math of losses and masks
lives in `pipeline/tensor/`."""
