"""The curves of training as Prometheus metrics, through Ray's exporter."""

from ray.util.metrics import Gauge

from pipeline.artifacts.curve import StepRecord, Validation

TAGS = ("job", "node")
OF_STEP = {
    "step": "Optimizer steps done",
    "loss": "What is minimised, mean over the last step, in nats",
    "learning_rate": "Learning rate of the last step",
    "gradient_norm": "Gradient norm of the last step, before clipping",
    "tokens_per_second": "Tokens trained per second, over all workers",
    "zeros": "Weights held at zero, at the last check",
    "memory_bytes": "Peak resident memory of the worker that needs most",
    "gpu_memory_bytes": "Peak GPU memory of the worker that needs most",
}


class CurveGauges:
    """One gauge for each curve: `secateur_training_<name>`, by job and node."""

    def __init__(self) -> None:
        self._of_step = {
            name: Gauge(f"secateur_training_{name}", description=text, tag_keys=TAGS)
            for name, text in OF_STEP.items()
        }
        self._perplexity = Gauge(
            "secateur_training_validation_perplexity",
            description="Perplexity on the held-out sequences",
            tag_keys=TAGS,
        )

    def set(self, record: StepRecord, *, job: str, node: str) -> None:
        """After a step."""
        for name, gauge in self._of_step.items():
            value = getattr(record, name)
            if value is not None:
                gauge.set(float(value), tags={"job": job, "node": node})

    def validated(self, validation: Validation, *, job: str, node: str) -> None:
        """After a validation."""
        self._perplexity.set(validation.perplexity, tags={"job": job, "node": node})
