"""Every error that a user can meet, with its stable code.

    SecateurError
    ├── InvalidRequest          the submitter can correct it: HTTP 4xx, never retried
    │   ├── InvalidSpec             a field has a wrong value
    │   ├── SourceNotFound          nothing exists where a source points
    │   ├── SourceNotAllowed        a path outside the allowed roots, or a scheme that is off
    │   ├── SourceUnreachable       a bucket or hub did not answer
    │   ├── UnsupportedCheckpoint   pickle weights, quantization, remote code
    │   │   └── IncompleteCheckpoint    files are missing that may still arrive
    │   ├── UnsupportedModel        a model type without a row in pipeline/architecture/rows.py
    │   ├── SequenceTooLong         longer than the model's positions
    │   └── TextTooShort            fewer tokens than the spec requests
    ├── StorageError
    │   ├── ObjectNotFound          a key that should exist does not
    │   ├── CorruptObject           bytes do not match their digest or length
    │   └── StorageUnavailable      the store did not answer (retried)
    └── StageError
        ├── SourceChanged           a pinned file is no longer what was accepted
        ├── InfeasiblePlan          an allocation leaves [0, 1)
        ├── NumericalError          non-finite statistics, weights or losses
        ├── ResourcesUnavailable    the cluster cannot hold what resources request
        ├── TrainingDiverged        the loss is not finite, or far above what it was
        ├── ZerosLost               a pruned weight is no longer zero
        ├── VerificationFailed      published files do not open as what they should be
        ├── TokenizerBroken         a cut tokenizer behaves differently from the dense one
        ├── WrongHarness            a worker has another lm-eval than the requested one
        ├── TargetFailed            a serving program does not open the result, or computes something else
        └── WorkerLost              an actor or node died (retried)

`message` says what is wrong, what was got, what is allowed and which field to change; `param` is that field's
path in the request, when there is one.
"""

from typing import ClassVar


class SecateurError(Exception):
    """Base of the tree. `code` is stable API; `retryable` tells whether another attempt may help."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = True

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def __reduce__(self) -> tuple[type["SecateurError"], tuple[str, str | None]]:
        return type(self), (self.message, self.param)  # keeps `param` when the error crosses a process border


class InvalidRequest(SecateurError):
    code = "invalid_request"
    retryable = False


class InvalidSpec(InvalidRequest):
    code = "invalid_spec"


class SourceNotFound(InvalidRequest):
    code = "source_not_found"


class SourceNotAllowed(InvalidRequest):
    code = "source_not_allowed"


class SourceUnreachable(InvalidRequest):
    code = "source_unreachable"


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
    retryable = False


class InfeasiblePlan(StageError):
    code = "infeasible_plan"
    retryable = False


class NumericalError(StageError):
    code = "numerical_error"
    retryable = False


class ResourcesUnavailable(StageError):
    code = "resources_unavailable"
    retryable = False


class TrainingDiverged(StageError):
    code = "training_diverged"
    retryable = False


class ZerosLost(StageError):
    code = "zeros_lost"
    retryable = False


class VerificationFailed(StageError):
    code = "verification_failed"
    retryable = False


class TokenizerBroken(StageError):
    code = "tokenizer_broken"
    retryable = False


class WrongHarness(StageError):
    code = "wrong_harness"
    retryable = False


class TargetFailed(StageError):
    code = "target_failed"
    retryable = False


class WorkerLost(StageError):
    code = "worker_lost"
