"""What training has stored."""

from pipeline.artifacts.certificate import Check
from pipeline.artifacts.refs import AdapterRef, CheckpointRef, KeepRef
from pipeline.canonical import Frozen


class Stored(Frozen):
    """The weights after `step` steps. `keep` belongs to them; `check`: of the tensors put together."""

    step: int
    checkpoint: CheckpointRef
    keep: KeepRef | None = None
    adapter: AdapterRef | None = None
    check: Check | None = None
