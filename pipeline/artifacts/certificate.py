"""The zeros certificate: that every pruned weight is zero, and was at every check."""

from typing import Literal

from pipeline.canonical import Frozen

Moment = Literal["mask", "step", "frozen", "gather", "save", "reload", "published"]


class TensorCertificate(Frozen):
    """One tensor under a keep tensor. `keep_sha256`: of the bit-packed keep tensor (tensor/packing.py).

    `held`: weights that must be zero; `zeros`: that are. `nm`: keep:group whose every group was checked.
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
    """One look at all tensors. `step`: optimizer steps done, where training was under way.

    mask: when the masks were made. step: master weights, optimizer moments and working weights in training.
    frozen: kept weights beside those of the model before, to the bit, where masks are learned.
    gather: the whole tensors put together from all workers. save: as they were handed to storage. reload: the
    stored checkpoint, read back. published: the published files, read back by safetensors. A check that finds
    a weight fails the job, so `revived` is 0 in what is stored.
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
        """Pruned weights of all tensors."""
        return sum(tensor.held for tensor in self.tensors)

    @property
    def holds(self) -> bool:
        """Whether every check found every pruned weight to be zero."""
        return bool(self.checks) and all(check.revived == 0 for check in self.checks)
