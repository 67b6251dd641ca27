"""The checkpoint that a process has loaded for lm-eval, which the tasks of one checkpoint share."""

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.artifacts.refs import CheckpointRef
from pipeline.dag.stages.results import EvaluateTask
from pipeline.request.parts import WorkerShare
from pipeline.storage.content import ContentStore

if TYPE_CHECKING:
    from workers.harness.model import Tell, TellingModel


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as lm-eval's model. `options`: those of its command line for the model. `key`: what the
    model depends on."""

    key: tuple[object, ...]
    model: "TellingModel"
    options: Mapping[str, str | bool]

    def for_task(self, tell: "Tell") -> "TellingModel":
        """The model for one task: it shares the weights, and nothing that an earlier task may have left."""
        model = copy.copy(self.model)
        model.batch_sizes = {}  # those that lm-eval found for the lengths of another task
        model.tell_to(tell)
        return model


class Asker:
    """Loads a checkpoint when the first task asks for it, and keeps it until another one is asked for."""

    def __init__(self) -> None:
        self._loaded: Loaded | None = None

    def holds(self, stage: EvaluateTask, checkpoint: CheckpointRef) -> bool:
        """Tells whether the checkpoint is loaded as the stage needs it."""
        return self._loaded is not None and self._loaded.key == _key(stage, checkpoint)

    def load(
        self,
        stage: EvaluateTask,
        checkpoint: CheckpointRef,
        content: ContentStore,
        share: WorkerShare,
        *,
        vllm_python: str,
    ) -> Loaded:
        """The checkpoint as lm-eval's command line loads it, on the CPU, a GPU, or divided over several; or
        in vLLM, which `vllm_python` has (this Python if empty)."""
        from workers.harness.files import materialise_checkpoint
        from workers.harness.model import TellingModel  # lm-eval takes seconds to import

        if self._loaded is not None and self.holds(stage, checkpoint):
            return self._loaded
        self.forget()
        with tempfile.TemporaryDirectory(prefix="secateur-evaluate-") as name:
            materialise_checkpoint(checkpoint, content, Path(name))
            options: dict[str, str | bool] = {"pretrained": name, "dtype": stage.compute_dtype}
            if stage.bos is not None:
                options["add_bos_token"] = True
            if stage.engine == "vllm":
                from workers.harness.vllm_model import VllmModel

                model: TellingModel = VllmModel(
                    name,
                    dtype=stage.compute_dtype,
                    gpus=int(share.gpus_per_worker),
                    threads=share.cpus_per_worker,
                    batch_size=stage.batch_size,
                    bos=stage.bos is not None,
                    python=vllm_python,
                )
            else:
                model = TellingModel(
                    **options,
                    batch_size=stage.batch_size,
                    device="cuda" if share.gpus_per_worker else "cpu",
                    parallelize=share.gpus_per_worker > 1,
                )
        self._loaded = Loaded(_key(stage, checkpoint), model, options)
        return self._loaded

    def forget(self) -> None:
        """Free the memory of the loaded checkpoint."""
        if self._loaded is not None:
            self._loaded.model.close()
            self._loaded = None
            torch.cuda.empty_cache()  # nothing where no GPU was used


def _key(stage: EvaluateTask, checkpoint: CheckpointRef) -> tuple[object, ...]:
    return (checkpoint.digest, stage.compute_dtype, stage.bos, stage.batch_size, stage.engine)
