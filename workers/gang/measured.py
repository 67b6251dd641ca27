"""The peak memory of a stage that runs in a process of its own."""

from dataclasses import replace

from workers.context import Made, Steps
from workers.memory import give_back, peak_memory_bytes, reset_peak_memory


def measured(steps: Steps) -> Steps:
    """The steps of a stage. Its result tells the peak memory of this process since the stage began."""
    reset_peak_memory()
    for step in steps:
        if isinstance(step, Made) and step.peak_memory_bytes is None:
            step = replace(step, peak_memory_bytes=peak_memory_bytes())
        yield step
    give_back()  # the next stage may run in this process
