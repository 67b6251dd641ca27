"""What training has stored."""

from pipeline.artifacts import AdapterRef, CheckpointRef, KeepRef
from pipeline.canonical import Frozen
from pipeline.certificate import Check


class Stored(Frozen):
    """The weights after `step` steps. `keep` belongs to them; `check`: of the tensors put together."""

    step: int
    checkpoint: CheckpointRef
    keep: KeepRef | None = None
    adapter: AdapterRef | None = None
    check: Check | None = None
