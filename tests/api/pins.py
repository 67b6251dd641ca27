"""Requests and pins for jobs that no source stands behind."""

from typing import Any

from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import ModelFacts, Pin, PinnedFile, Pins
from pipeline.spec.stored_masks import StoredMasks

MODEL = "file:/models/tiny"


def pinned(spec: PruneSpec) -> Pins:
    """What a resolver would say."""

    def pin(source: str) -> Pin:
        return Pin(source=source, files=(PinnedFile(path="file", size=7, tag="sha256:" + "0" * 64),))

    asked = spec.evaluation.tasks
    recovery = spec.recovery
    learned = spec.learned_method
    stored = learned.prior if learned is not None and isinstance(learned.prior, StoredMasks) else None
    compared = spec.prune.compare_with if spec.prune is not None else ()
    return Pins(
        model=pin(spec.model.source),
        facts=ModelFacts(model_type="llama", blocks=2, max_positions=128),
        calibration=pin(spec.calibration.source) if spec.calibration is not None else None,
        perplexity=tuple(pin(text.source) for text in spec.evaluation.perplexity),
        tasks=pin(asked.include) if asked is not None and asked.include is not None else None,
        mask_text=pin(learned.training.text.source) if learned is not None else None,
        prior=pin(stored.source) if stored is not None else None,
        compared=tuple(pin(masks.source) for masks in compared),
        recovery=pin(recovery.text.source) if recovery is not None else None,
    )


def body(*, model: str = MODEL, **beside: Any) -> dict[str, Any]:
    """A small valid request."""
    prune = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}
    return {"spec": {"model": {"source": model}, "prune": prune}, **beside}
