"""Any exception becomes an error of one class: the user's, the machine's, or a bug of ours.

What is not known to be the user's or the machine's is a bug: it would come again, so nobody tries again, and
its message says where it happened.
"""

import re
import traceback
from collections.abc import Mapping
from pathlib import Path

import httpx
import torch

from pipeline.errors import MachineFailed, OutOfMemory, SecateurError
from pipeline.request.parts import WorkerShare

HOME = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "workers", "secateur", "api")
_FRAME = re.compile(r'File "([^"\n]+)", line (\d+), in (\S+)')

# A file that is missing or may not be read is so at the next try as well.
_LASTING = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_PASSING = (ConnectionError, TimeoutError, httpx.TransportError, torch.distributed.DistError)
# Libraries that raise a plain RuntimeError or OSError tell it only by their words.
_PASSING_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "AWS Error")
_MEMORY_WORDS = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")

_DEVICE_WORDS = ("CUDA", "CUBLAS", "HIP", "GPU")

_MEMORY_FIELDS: Mapping[str, tuple[str, str]] = {  # stage → the field that helps most, and what to do
    "recover": (
        "resources.recovery.micro_batch_size",
        "lower it or spec.recovery.text.sequence_length, set resources.recovery.gradient_checkpointing or a "
        "higher zero_stage",
    ),
    "learn_masks": (
        "resources.recovery.micro_batch_size",
        "lower it or the sequence_length of spec.prune.method.training.text, set "
        "resources.recovery.gradient_checkpointing or a higher zero_stage",
    ),
    "evaluate_task": ("spec.evaluation.tasks.batch_size", "lower it"),
}


def classified(
    error: BaseException,
    *,
    stage: str | None = None,
    share: WorkerShare | None = None,
    trace: str | None = None,
) -> SecateurError:
    """The error of pipeline/errors.py that stands for an exception. `stage`: the kind of stage that raised
    it, and `share`: the workers that it has, for the remedy. `trace`: its traceback as text, where it comes
    from another process."""
    if isinstance(error, SecateurError):
        return error
    said = f"{type(error).__name__}: {error}".rstrip(": ")[:2000]
    if _is_memory(error):
        device = isinstance(error, torch.OutOfMemoryError) or any(word in said for word in _DEVICE_WORDS)
        return out_of_memory(said.splitlines()[0], stage=stage, share=share, device=device)
    if _is_passing(error):
        return MachineFailed(said)
    return bug(said, trace if trace is not None else "".join(traceback.format_exception(error)))


def out_of_memory(said: str, *, stage: str | None, share: WorkerShare | None, device: bool) -> OutOfMemory:
    """The error of a stage whose worker ran out of memory, of its GPU (`device`) or of the machine. `said`:
    what was needed, as far as it is known. It names the limit and the field to change."""
    memory = "resources.memory_per_worker" if share is None else share.field("memory_per_worker")
    kind = "resources.accelerator_type" if share is None else share.field("accelerator_type")
    larger = "ask for GPUs with more memory by accelerator_type" if device else f"raise {memory}"
    if stage is not None and stage in _MEMORY_FIELDS:
        field, remedy = _MEMORY_FIELDS[stage]
        change = f"change {field}: {remedy}, or {larger}"
    elif device:
        field, change = kind, f"change {kind}: ask for GPUs with more memory, or lower the sequence_length"
    else:
        field, change = memory, f"change {memory}: raise it, or lower the sequence_length of the texts"
    who = "the worker" if stage is None else f"a worker of stage {stage}"
    limit = "" if share is None else f"; the stage has {share}"
    return OutOfMemory(f"{who} ran out of {'GPU ' if device else ''}memory: {said}{limit}; {change}", field)


def bug(said: str, trace: str) -> SecateurError:
    """A bug with the innermost place of this project in a traceback."""
    place = innermost(trace)
    return SecateurError(f"{said}, at {place}" if place is not None else said)


def innermost(trace: str) -> str | None:
    """The last frame of this project in a traceback, as `file:line in function`; None if there is none."""
    for path, line, function in reversed(_FRAME.findall(trace)):
        file = Path(path)
        if file.is_relative_to(HOME) and file.relative_to(HOME).parts[0] in PACKAGES:
            return f"{file.relative_to(HOME).as_posix()}:{line} in {function}"
    return None


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _MEMORY_WORDS)


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, _LASTING):
        return False
    if isinstance(error, _PASSING):
        return True
    if isinstance(error, (OSError, RuntimeError)) and any(word in str(error) for word in _PASSING_WORDS):
        return True
    # An OSError of the system has a number. Libraries raise others, for files that they do not understand.
    return isinstance(error, OSError) and error.errno is not None
