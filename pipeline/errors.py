"""Every error that a user can meet, with its stable code.

Every class says whose failure it is (`blame`): the user's, who changes the request, its sources or the
installation; the machine's, which another try may get past; or a bug of ours, which the next try would meet
again. docs/errors.md lists them all.

    SecateurError               a bug: an exception that has no class here
    ├── InvalidRequest          the submitter can correct it: HTTP 4xx, never retried
    │   ├── InvalidSpec             a field has a wrong value
    │   ├── SourceNotFound          nothing exists where a source points
    │   ├── SourceNotAllowed        a path outside the allowed roots, or a scheme that is off
    │   ├── SourceUnreachable       a bucket or hub did not answer (the machine's)
    │   ├── UnsupportedCheckpoint   pickle weights, quantization, remote code
    │   │   └── IncompleteCheckpoint    files are missing that may still arrive
    │   ├── UnsupportedModel        a model type without a row in pipeline/architecture/rows.py
    │   ├── SequenceTooLong         longer than the model's positions
    │   └── TextTooShort            fewer tokens than the spec requests
    ├── StorageError            the machine's
    │   ├── ObjectNotFound          a key that should exist does not (retried)
    │   ├── CorruptObject           bytes do not match their digest or length
    │   └── StorageUnavailable      the store did not answer (retried)
    └── StageError
        ├── SourceChanged           a pinned file is no longer what was accepted
        ├── InfeasiblePlan          an allocation leaves [0, 1)
        ├── NumericalError          non-finite statistics, weights or losses
        ├── ResourcesUnavailable    the cluster cannot hold what resources request
        ├── OutOfMemory             the stage needs more memory than its worker has
        ├── TrainingDiverged        the loss is not finite, or far above what it was
        ├── ZerosLost               a pruned weight is no longer zero
        ├── VerificationFailed      published files do not open as what they should be
        ├── TokenizerBroken         a cut tokenizer behaves differently from the dense one
        ├── WrongHarness            a worker has another lm-eval than the requested one
        ├── TargetFailed            a serving program does not open the result, or computes something else
        ├── WorkerLost              an actor or node died (retried)
        │   └── MachineLeaves       a node is about to be taken away (goes on elsewhere, and no try is lost)
        └── MachineFailed           a connection, a disk or the system failed (retried)

`message` says what is wrong, what was got, what is allowed and which field to change; `param` is that field's
path in the request, when there is one.
"""

from typing import ClassVar, Literal

Blame = Literal["user", "machine", "bug"]


class SecateurError(Exception):
    """Base of the tree. `code` is stable API; `blame` tells whose failure it is, and `retryable` whether
    another attempt may help."""

    code: ClassVar[str] = "internal_error"
    blame: ClassVar[Blame] = "bug"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def __reduce__(self) -> tuple[type["SecateurError"], tuple[str, str | None]]:
        return type(self), (self.message, self.param)  # keeps `param` when the error crosses a process border


class InvalidRequest(SecateurError):
    code = "invalid_request"
    blame: ClassVar[Blame] = "user"


class InvalidSpec(InvalidRequest):
    code = "invalid_spec"


class SourceNotFound(InvalidRequest):
    code = "source_not_found"


class SourceNotAllowed(InvalidRequest):
    code = "source_not_allowed"


class SourceUnreachable(InvalidRequest):
    code = "source_unreachable"
    blame = "machine"
    retryable = True


class UnsupportedCheckpoint(InvalidRequest):
    code = "unsupported_checkpoint"


class IncompleteCheckpoint(UnsupportedCheckpoint):
    pass


class UnsupportedModel(InvalidRequest):
    code = "unsupported_model"


class SequenceTooLong(InvalidRequest):
    code = "sequence_too_long"


class TextTooShort(InvalidRequest):
    code = "text_too_short"


class StorageError(SecateurError):
    code = "storage_error"
    blame = "machine"
    retryable = True


class ObjectNotFound(StorageError):
    code = "object_not_found"


class CorruptObject(StorageError):
    code = "corrupt_object"
    retryable = False


class StorageUnavailable(StorageError):
    code = "storage_unavailable"


class StageError(SecateurError):
    code = "stage_failed"


class SourceChanged(StageError):
    code = "source_changed"
    blame = "user"


class InfeasiblePlan(StageError):
    code = "infeasible_plan"
    blame = "user"


class NumericalError(StageError):
    code = "numerical_error"
    blame = "user"


class ResourcesUnavailable(StageError):
    code = "resources_unavailable"
    blame = "user"


class OutOfMemory(StageError):
    code = "out_of_memory"
    blame = "user"


class TrainingDiverged(StageError):
    code = "training_diverged"
    blame = "user"


class ZerosLost(StageError):
    code = "zeros_lost"
    blame = "bug"


class VerificationFailed(StageError):
    code = "verification_failed"
    blame = "bug"


class TokenizerBroken(StageError):
    code = "tokenizer_broken"
    blame = "bug"


class WrongHarness(StageError):
    code = "wrong_harness"
    blame = "user"


class TargetFailed(StageError):
    code = "target_failed"
    blame = "bug"


class WorkerLost(StageError):
    code = "worker_lost"
    blame = "machine"
    retryable = True


class MachineLeaves(WorkerLost):
    code = "machine_leaves"
    blame = "machine"


class MachineFailed(StageError):
    code = "machine_failed"
    blame = "machine"
    retryable = True


def every_error() -> tuple[type[SecateurError], ...]:
    """All classes of the tree, those of other modules too once they are imported; parents come first."""
    kinds = [SecateurError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return tuple(kinds)
