"""Training under Ray Train and DeepSpeed ZeRO: the student, its guard of zeros, checkpoints, curves,
trackers. `engine.py` is the only file that knows how DeepSpeed keeps parameters. Losses and masks as math
live in `pipeline/tensor/`."""
