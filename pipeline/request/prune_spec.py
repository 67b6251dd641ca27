"""PruneSpec, the science of a job, and the other fields in the body of POST /jobs.

Everything in the spec changes the result and enters stage keys, defaults included. Resources, labels and
priority change where and when a job runs, never its bits.
"""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from pipeline.allocations import Allocation
from pipeline.allocations.contest import ContestAllocation
from pipeline.allocations.uniform import Uniform
from pipeline.canonical import Frozen
from pipeline.methods import Method
from pipeline.methods.learned import LearnedMethod
from pipeline.request.cross_checks import (
    check_compared,
    check_contest_text,
    check_learning,
    check_recovery,
    check_split,
    check_training,
    check_whole_texts,
)
from pipeline.request.resources import Resources
from pipeline.request.sweep import MAX_MEMBERS, Sweep
from pipeline.request.tracking import Tracking
from pipeline.spec.evaluation import Evaluation
from pipeline.spec.model import Dtype, ModelSource
from pipeline.spec.patterns import AskedPattern
from pipeline.spec.propagation import Propagation
from pipeline.spec.publishing import Publishing
from pipeline.spec.quantization import Gptq, Quantizations
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.spec.recovery import Recovery
from pipeline.spec.self_calibration import AnyCalibration, SelfCalibration
from pipeline.spec.stored_masks import NamedMasks
from pipeline.spec.structure import Structure
from pipeline.spec.targets import Targets

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$")]


class Prune(Frozen):
    """The choice of the weights that become zero.

    `propagation`: `pruned` measures each block on what the already pruned blocks before it produce, as the
    published code does; `linear` measures each group of linears on what the already pruned linears before it
    produce, in the same block too (SparseGPT calls it true-sequential), and runs each block once in all;
    `dense` measures every block on the dense model's activations, once for all jobs that share it.
    `reconstruction`: the kept weights of each block are fitted before the next one is pruned.
    `compare_with`: stored masks of the same model, which the report compares with those that were chosen.
    """

    method: Method
    allocation: Allocation = Field(default_factory=Uniform)
    pattern: AskedPattern
    propagation: Propagation = "pruned"
    reconstruction: BlockReconstruction | None = None
    compare_with: tuple[NamedMasks, ...] = Field(default=(), max_length=8)

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        check_compared(self.compare_with)
        if isinstance(self.method, LearnedMethod):
            check_learning(self.method, self.allocation, reconstructs=self.reconstruction is not None)
        return self


class SpecTemplate(Frozen):
    """A PruneSpec whose model may still be open: a schedule fills it in.

    `structure` is applied first, then `prune` on the smaller model, then training. Without `structure` and
    `prune`, training gets the dense model. `target`: the programs that shall serve the result, one or
    several; each opens what is published and is measured with it. `publish`: what is published beside the
    ordinary checkpoint. `quantize`: forms of the result with weights of few bits, which are published beside
    it.
    """

    model: ModelSource | None = None
    calibration: AnyCalibration | None = None
    structure: Structure | None = None
    prune: Prune | None = None
    sweep: Sweep | None = None
    recovery: Recovery | None = None
    evaluation: Evaluation = Field(default_factory=Evaluation)
    # specs without a target have the keys of the time before there were any
    target: Targets = Field(default=(), exclude_if=lambda targets: not targets)
    publish: Publishing | None = Field(default=None, exclude_if=lambda publish: publish is None)
    quantize: Quantizations = Field(default=(), exclude_if=lambda forms: not forms)
    compute_dtype: Dtype | None = Field(
        default=None,
        description="Type of weights and activations while measuring and evaluating. By default it is that "
        "of the checkpoint on GPUs, and float32 on CPUs.",
    )
    reproducible: bool = Field(
        default=True,
        exclude_if=bool,  # so that specs have the keys of the time before
        description=(
            "Hessians, and gradients of reconstruction, have the same bits for any number of workers. With "
            "false, each worker adds up its own samples, and an all-reduce adds up the workers: their number "
            "may then change last bits, and so masks and weights."
        ),
    )

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        if self.structure is None and self.prune is None and self.recovery is None:
            raise ValueError("structure, prune and recovery are missing: nothing would be done to the model")
        if self.needs_calibration and self.calibration is None:
            raise ValueError(
                f"calibration is missing: {self._measures()} measures the model on calibration samples"
            )
        if self.prune is not None and isinstance(self.calibration, SelfCalibration):
            check_contest_text(self.prune.allocation)
        if self.recovery is not None:
            pattern = self.prune.pattern if self.prune is not None else None
            cut = self.structure is not None and self.structure.beside_vocabulary is not None
            check_recovery(self.recovery, pattern, cut=cut)
        if self.cuts_vocabulary:
            check_whole_texts(self.evaluation)
        if self.publish is not None and not self.makes_zeros:
            raise ValueError(
                "publish.sparse packs zeros, and this spec makes none: leave it out, or name prune or "
                "gradual recovery"
            )
        return self

    @property
    def dtype(self) -> Dtype:
        """compute_dtype, which `plan` fills in (compute_dtype.py); float32 before that."""
        return self.compute_dtype or "float32"

    def _measures(self) -> str:
        """The first part of the spec that needs calibration, as error messages name it."""
        if self.structure is not None and self.structure.needs_samples:
            return "structure"
        if self.rounds_by_samples:
            return "quantize kind gptq"
        assert self.prune is not None, "something needs it"
        if self.prune.method.needs:
            return f"method {self.prune.method.kind}"
        if self.prune.reconstruction is not None:
            return "reconstruction"
        return f"allocation {self.prune.allocation.kind}"

    @property
    def needs_calibration(self) -> bool:
        """True if any part of the spec uses activations."""
        if self.rounds_by_samples or (self.structure is not None and self.structure.needs_samples):
            return True
        if self.prune is None:
            return False
        prune = self.prune
        measures = any(measure.needs_samples for measure in prune.allocation.measures)
        scores = isinstance(prune.allocation, ContestAllocation)
        return bool(prune.method.needs) or measures or scores or prune.reconstruction is not None

    @property
    def rounds_by_samples(self) -> bool:
        """True if calibration samples decide how weights are rounded."""
        return any(isinstance(form, Gptq) for form in self.quantize)

    @property
    def makes_zeros(self) -> bool:
        """True if the result has weights that must be zero."""
        return self.prune is not None or (self.recovery is not None and self.recovery.keep.kind == "gradual")

    @property
    def needs_tokenizer(self) -> bool:
        """True if any part of the spec turns text into tokens."""
        asked = self.evaluation.tasks is not None or self.evaluation.behaviour is not None
        evaluated = self.evaluation.perplexity or asked
        trained = self.recovery is not None or self.learns_masks
        return self.needs_calibration or self.cuts_vocabulary or trained or bool(evaluated)

    @property
    def learns_masks(self) -> bool:
        """True if masks come from training."""
        return self.learned_method is not None

    @property
    def learned_method(self) -> LearnedMethod | None:
        """The method whose masks are trained, if the spec has one."""
        method = self.prune.method if self.prune is not None else None
        return method if isinstance(method, LearnedMethod) else None

    @property
    def cuts_vocabulary(self) -> bool:
        """True if the result has a tokenizer of its own."""
        return self.structure is not None and self.structure.vocabulary is not None


class PruneSpec(SpecTemplate):
    """The model to prune, the way to prune it, and its evaluation. With `sweep` there are many ways, and the
    job compares them without publishing any; to publish the best member, submit it as a job of its own."""

    model: ModelSource

    @model_validator(mode="after")
    def _sweeping(self) -> Self:
        if self.sweep is None:
            return self
        if self.prune is None:
            raise ValueError("sweep varies prune, which is missing")
        if self.learned_method is not None:
            raise ValueError(
                f"a sweep compares one-shot methods, and {self.learned_method.kind} is trained; name another "
                f"method in prune"
            )
        if self.recovery is not None:
            raise ValueError(
                "a sweep compares pruned models and trains none: leave recovery out, and train the member "
                "that pleases in a job of its own"
            )
        for field in ("target", "publish", "quantize"):
            if getattr(self, field):
                raise ValueError(
                    f"a sweep publishes no model; leave {field} out, and name it for the member that pleases "
                    f"in a job of its own"
                )
        if not self.evaluation.perplexity:
            raise ValueError("a sweep compares perplexities: name a text under evaluation.perplexity")
        if self.evaluation.behaviour is not None:
            raise ValueError(
                "a sweep compares perplexities; leave evaluation.behaviour out, and look at the member that "
                "pleases in a job of its own"
            )
        if self.prune.compare_with:
            raise ValueError(
                "a sweep compares perplexities; leave prune.compare_with out, and compare the masks of the "
                "member that pleases in a job of its own"
            )
        members = len(self._crossed())
        if members > MAX_MEMBERS:
            raise ValueError(f"a sweep has at most {MAX_MEMBERS} members, this one has {members}: list less")
        _ = self.members  # every member must be a valid spec by itself
        return self

    @property
    def members(self) -> tuple["PruneSpec", ...]:
        """The members of a sweep, each as the spec of a job; without a sweep there are none. Raises
        ValueError for a combination that is no valid spec."""
        found = []
        for i, prune in enumerate(self._crossed()):
            try:
                found.append(PruneSpec(**{**self._fields(), "prune": prune, "sweep": None}))
            except ValidationError as error:
                raise ValueError(f"member {i + 1} of the sweep: {error.errors()[0]['msg']}") from error
        return tuple(found)

    def _crossed(self) -> list[Prune]:
        asked = self.prune
        if self.sweep is None or asked is None or isinstance(asked.method, LearnedMethod):
            return []
        return [
            asked.model_copy(update={"method": method, "allocation": allocation, "pattern": pattern})
            for method, allocation, pattern in self.sweep.crossed(
                asked.method, asked.allocation, asked.pattern
            )
        ]

    def _fields(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in type(self).model_fields}


class JobTemplate(Frozen):
    """A JobRequest whose model may still be open."""

    spec: SpecTemplate
    resources: Resources = Field(default_factory=Resources)
    priority: int = Field(default=0, ge=-100, le=100, description="Higher starts first.")
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=32)
    tracking: Tracking = Field(default_factory=Tracking)
    name: str | None = Field(default=None, min_length=1, max_length=100)
    max_runtime_hours: float | None = Field(
        default=None,
        gt=0,
        le=24 * 365,
        description="A job that has run longer, from its first start on, is ended and fails. Waiting for its "
        "first place in the queue does not count. Left out: no limit.",
    )

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        if self.spec.recovery is not None:
            check_training(self.spec.recovery, self.resources)
        if self.spec.learned_method is not None:
            training = self.spec.learned_method.training
            check_split(training, self.resources, "spec", "prune", "method", "training")
        return self


class JobRequest(JobTemplate):
    """Body of POST /jobs and POST /plans."""

    spec: PruneSpec
