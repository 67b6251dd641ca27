"""The imports of the process that crews are forked from (crews.py). No other process imports this file."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed chooses its accelerator when it is imported

from tests.workers import training_runs
from workers.training import start

__all__ = ["start", "training_runs"]
