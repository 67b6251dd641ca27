"""The zeros certificate, which says that every pruned weight is zero, and was zero at every check."""

from typing import Literal

from pipeline.canonical import Frozen

Moment = Literal["mask", "step", "frozen", "gather", "save", "reload", "quantized", "published"]


class TensorCertificate(Frozen):
    """One tensor under a keep tensor. `keep_sha256`: hash of the bit-packed keep tensor (tensor/packing.py).

    `held`: number of weights that must be zero; `zeros`: number of those that are. `nm`: keep and group of an
    N:M pattern that was checked in every group.
    """

    tensor: str
    block: int
    linear: str
    keep_sha256: str
    weights: int
    held: int
    zeros: int
    nm: tuple[int, int] | None = None


class Check(Frozen):
    """One check of all tensors. `step`: optimizer steps done, if it was made during training.

    mask: the masks right after they were made. step: master weights, optimizer moments and working weights in
    training. frozen: where masks are learned, kept weights are compared to the bit with those of the model
    before. gather: the whole tensors, put together from all workers. save: the tensors as they were handed to
    storage. reload: the stored checkpoint, read back. quantized: a quantized form of it, read back from what
    was written. published: the published files, read back by
    safetensors. A check that finds a pruned weight that is not zero fails the job, so `revived` is 0 in
    stored certificates.
    """

    at: Moment
    step: int | None = None
    tensors: int
    held: int
    zeros: int
    revived: int = 0


class Certificate(Frozen):
    """Content of `certificate.json`."""

    tensors: tuple[TensorCertificate, ...]
    checks: tuple[Check, ...]

    @property
    def held(self) -> int:
        """The number of pruned weights in all tensors."""
        return sum(tensor.held for tensor in self.tensors)

    @property
    def holds(self) -> bool:
        """True if every check found every pruned weight to be zero."""
        return bool(self.checks) and all(check.revived == 0 for check in self.checks)
