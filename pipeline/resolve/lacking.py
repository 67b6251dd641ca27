"""Refuses what is not offered for a model type, with the reason that its row gives."""

from collections.abc import Iterator

from pipeline.architecture.parts import Feature
from pipeline.architecture.row import Architecture
from pipeline.errors import InvalidSpec
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.evaluation import PerplexityText
from pipeline.spec.self_calibration import SelfCalibration
from pipeline.spec.texts import Calibration
from pipeline.structure.depth import DropSpaced


def check_lacking(spec: PruneSpec, row: Architecture) -> None:
    """Raises InvalidSpec that names the first field of the spec which asks for something that the type
    lacks."""
    for feature, what, field in _asked(spec):
        if feature in row.lacks:
            raise InvalidSpec(f"{what} is not offered for {row.model_type}: {row.lacks[feature]}", field)
    if row.pairs is not None:
        _check_texts(spec, row)


def _asked(spec: PruneSpec) -> Iterator[tuple[Feature, str, str]]:
    """Yields the features that a spec asks for, each with its name for people and its field."""
    if spec.recovery is not None:
        yield "recovery", "recovery training", "spec.recovery"
    if spec.learned_method is not None:
        yield "learned_masks", f"method {spec.learned_method.kind}", "spec.prune.method.kind"
    if any(one.prune is not None and one.prune.reconstruction is not None for one in (spec, *spec.members)):
        yield "reconstruction", "reconstruction", "spec.prune.reconstruction"
    if spec.structure is not None and isinstance(spec.structure.drop_blocks, DropSpaced):
        yield "spaced", "drop_blocks kind spaced", "spec.structure.drop_blocks.kind"
    if isinstance(spec.calibration, SelfCalibration):
        yield "self_calibration", "calibration by the model itself", "spec.calibration"
    if spec.evaluation.tasks is not None:
        yield "tasks", "an evaluation by tasks", "spec.evaluation.tasks"
    if spec.evaluation.behaviour is not None:
        yield "behaviour", "an evaluation of behaviour", "spec.evaluation.behaviour"
    if spec.target:
        yield "target", f"target {spec.target[0].kind}", "spec.target"
    if spec.quantize:
        yield "quantize", f"quantize {spec.quantize[0].name}", "spec.quantize"
    if spec.publish is not None:
        yield "sparse", "publish.sparse", "spec.publish.sparse"
    if spec.compute_dtype == "float16":
        yield "float16", "compute_dtype float16", "spec.compute_dtype"


def _check_texts(spec: PruneSpec, row: Architecture) -> None:
    """Checks how texts are cut for an encoder-decoder, which fills gaps in them."""
    if isinstance(spec.calibration, Calibration):
        _check_bos(spec.calibration, row, "spec.calibration.bos")
    for i, text in enumerate(spec.evaluation.perplexity):
        check_windows(text, row, field=f"spec.evaluation.perplexity.{i}.")


def check_windows(text: PerplexityText, row: Architecture, *, field: str = "") -> None:
    """Checks how a text is cut into windows in which an encoder-decoder fills gaps. `field`: the beginning of
    its fields' names in errors. Raises InvalidSpec."""
    _check_bos(text, row, f"{field}bos")
    if text.stride is not None and text.stride != text.sequence_length:
        raise InvalidSpec(
            f"stride {text.stride}: {row.model_type} fills gaps in each window, and windows that overlap "
            f"would count the same tokens in several; leave it out",
            f"{field}stride",
        )


def _check_bos(text: Calibration | PerplexityText, row: Architecture, field: str) -> None:
    if text.bos in ("once", "every_window"):
        raise InvalidSpec(
            f"bos {text.bos}: {row.model_type} reads texts with gaps, which begin without BOS; leave it out",
            field,
        )
