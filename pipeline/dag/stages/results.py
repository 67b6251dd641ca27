"""The stages that make a job's results: evaluations, the published checkpoint, and reports."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.architecture.parts import Pairs
from pipeline.dag.stages.base import BaseStage
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import PinnedFile
from pipeline.spec.behaviour import Behaviour
from pipeline.spec.eval_tasks import LM_EVAL_VERSION, EvalTask
from pipeline.spec.evaluation import Evaluation
from pipeline.spec.model import Dtype
from pipeline.spec.texts import is_unset


class Evaluate(BaseStage):
    """Perplexities of one checkpoint. `texts`: the pinned files of each text, parallel to the evaluation.
    `pairs`: for an encoder-decoder, how a window becomes what the encoder reads and the decoder writes."""

    kind: Literal["evaluate"] = "evaluate"
    names_sources: ClassVar = True
    version: ClassVar = 3
    outputs: ClassVar = ("evaluation",)
    unit: ClassVar = "block"
    texts: tuple[tuple[PinnedFile, ...], ...]
    evaluation: Evaluation
    compute_dtype: Dtype
    pairs: Pairs | None = Field(default=None, exclude_if=is_unset)


class EvaluateTask(BaseStage):
    """The evaluation of one checkpoint on one task (or group, or tag) by lm-eval. `bos`: set for model types
    that need BOS in front of every text, whether their tokenizer adds it or not. `engine`: what computes,
    where it is not transformers."""

    kind: Literal["evaluate_task"] = "evaluate_task"
    version: ClassVar = 2
    outputs: ClassVar = ("tasks", "harness")
    unit: ClassVar = "request"
    task: EvalTask
    batch_size: int
    seed: int
    compute_dtype: Dtype
    harness_version: str = LM_EVAL_VERSION
    bos: Literal["every_window"] | None = Field(default=None, exclude_if=is_unset)
    engine: Literal["vllm"] | None = Field(default=None, exclude_if=is_unset)


class Behave(BaseStage):
    """The continuations of prompts by one checkpoint. `files`: those of the prompts, if they are a text."""

    kind: Literal["behave"] = "behave"
    names_sources: ClassVar = True
    outputs: ClassVar = ("behaviour",)
    unit: ClassVar = "prompt"
    files: tuple[PinnedFile, ...]
    behaviour: Behaviour
    bos: Literal["every_window"] | None
    compute_dtype: Dtype


class Publish(BaseStage):
    """An ordinary Hugging Face directory with model card and side file; where there are zeros, also with
    their masks, and with their certificate, for which the published files are read back. Takes `unpruned`,
    the checkpoint for whose weights the masks were chosen, unless training changed the masks. There is no
    manifest yet, so nobody takes it for a result."""

    kind: Literal["publish"] = "publish"
    version: ClassVar = 5
    unit: ClassVar = "file"
    model_name: str
    spec: PruneSpec

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The files, and the certificate where there are zeros."""
        return ("published", "certificate") if self.spec.makes_zeros else ("published",)


class Verify(BaseStage):
    """The opening of a published directory, from storage and in a process of its own, as its users will do
    it. Takes `published`, the `checkpoint` that it was made of, and `keep` where there are zeros. Only what
    passes gets a manifest."""

    kind: Literal["verify"] = "verify"
    outputs: ClassVar = ("manifest", "verification")
    unit: ClassVar = "check"


class Report(BaseStage):
    """One page and one JSON with every figure. They describe this job, so each job makes its own."""

    kind: Literal["report"] = "report"
    outputs: ClassVar = ("report",)
    reusable: ClassVar = False
    model_name: str
    spec: PruneSpec


class ReportSweep(BaseStage):
    """The comparison of the members of a sweep. Takes `dense` and its tasks, and of every member, numbered
    from 1, `plan@1`, `keep@1`, `pruned@1` and `tasks:pruned:<task>@1`."""

    kind: Literal["report_sweep"] = "report_sweep"
    outputs: ClassVar = ("report",)
    reusable: ClassVar = False
    model_name: str
    spec: PruneSpec
