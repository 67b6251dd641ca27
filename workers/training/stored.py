"""The record of the weights that training has stored."""

from pipeline.artifacts.certificate import Check
from pipeline.artifacts.refs import AdapterRef, CheckpointRef, KeepRef
from pipeline.canonical import Frozen


class Stored(Frozen):
    """The stored weights after `step` steps, with their keep tensors. `check` covers the gathered tensors."""

    step: int
    checkpoint: CheckpointRef
    keep: KeepRef | None = None
    adapter: AdapterRef | None = None
    check: Check | None = None
