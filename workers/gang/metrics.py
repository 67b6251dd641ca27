"""Progress and curves of training as Prometheus metrics, through Ray's exporter."""

from ray.util.metrics import Gauge

from pipeline.artifacts.curve import StepRecord, Validation

TAGS = ("job", "node")
GAUGES = {
    "step": "Optimizer steps done",
    "loss": "Loss that is minimised, mean over the last step, in nats",
    "learning_rate": "Learning rate of the last step",
    "gradient_norm": "Gradient norm of the last step, before clipping",
    "tokens_per_second": "Tokens trained per second, over all workers",
    "zeros": "Weights held at zero, at the last check",
    "memory_bytes": "Peak resident memory of the worker that needs most",
    "gpu_memory_bytes": "Peak GPU memory of the worker that needs most",
}


class RayMetrics:
    """See Metrics: gauges `secateur_stage_done` and `_total`, and `secateur_training_<curve>`, by job and
    node."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._done = _gauge("secateur_stage_done", "Finished units of a stage")
        self._total = _gauge("secateur_stage_total", "All units of a stage")
        self._of_step = {name: _gauge(f"secateur_training_{name}", text) for name, text in GAUGES.items()}
        self._perplexity = _gauge(
            "secateur_training_validation_perplexity", "Perplexity on the held-out sequences"
        )

    def progressed(self, node: str, *, done: float, total: float) -> None:
        """Set the numbers of finished and of all units of a stage."""
        self._set(self._done, node, done)
        self._set(self._total, node, total)

    def trained(self, node: str, record: StepRecord) -> None:
        """Set the figures of a training step."""
        for name, gauge in self._of_step.items():
            value = getattr(record, name)
            if value is not None:
                self._set(gauge, node, float(value))

    def validated(self, node: str, validation: Validation) -> None:
        """Set the perplexity of a validation."""
        self._set(self._perplexity, node, validation.perplexity)

    def _set(self, gauge: Gauge, node: str, value: float) -> None:
        gauge.set(value, tags={"job": self._job, "node": node})


def _gauge(name: str, description: str) -> Gauge:
    return Gauge(name, description=description, tag_keys=TAGS)
