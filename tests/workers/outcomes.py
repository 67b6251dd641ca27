"""What trainings left in their store: curves, weights and masks."""

from torch import Tensor

from pipeline.artifacts.curve import Curve
from pipeline.artifacts.refs import CheckpointRef, KeepRef
from pipeline.checkpoint.keeps import load_keep
from pipeline.checkpoint.reader import CheckpointReader
from tests.workers.training_runs import Outcome, Prepared


def curve_of(tiny: Prepared, outcome: Outcome) -> Curve:
    assert outcome.error is None
    assert outcome.result is not None
    data = tiny.content.get_bytes(outcome.result.artifacts["curve"].file("curve.json"))
    return Curve.model_validate_json(data)


def weights_of(tiny: Prepared, outcome: Outcome) -> dict[str, Tensor]:
    assert outcome.result is not None
    checkpoint = outcome.result.artifacts["checkpoint"]
    assert isinstance(checkpoint, CheckpointRef)
    reader = CheckpointReader(tiny.content, checkpoint)
    return {name: reader.tensor(name) for name in reader.index.tensors}


def stored(outcome: Outcome) -> tuple[CheckpointRef, KeepRef]:
    assert outcome.result is not None
    checkpoint, keep = outcome.result.artifacts["checkpoint"], outcome.result.artifacts["keep"]
    assert isinstance(checkpoint, CheckpointRef)
    assert isinstance(keep, KeepRef)
    return checkpoint, keep


def keeps_of(tiny: Prepared, outcome: Outcome) -> dict[str, Tensor]:
    return load_keep(tiny.content, *stored(outcome))
