"""A section of a report: its data, where they come from, its figures, and what its template needs.

A report is a class that inherits its sections (see `data.py`), so that the fields of all lie side by side in
`report.json`. Methods of a section are class methods that take the whole report: `ZerosSection.view(report)`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import Field

from pipeline.artifacts.environment import Environment
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.canonical import Frozen
from pipeline.job.ledger import NodeResult
from pipeline.report.inputs import MODELS, Inputs
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pins
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan


class Headline(Frozen):
    """Figures of a section that stand in the `summary` of `report.json`, which tables of jobs show."""


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page. `small`: the words below it; `wide`: it takes the place of two;
    `work`: it tells of the work that was done, and stands behind those that tell of its result."""

    title: str
    value: str
    small: str
    wide: bool = False
    work: bool = False


class Section(Frozen):
    """Every section knows the facts of its job. `stages`: the nodes that were done before the report, in plan
    order. `declared_memory_bytes`: of each worker.

    The template is the file `<module>.html.j2` beside the section's own, unless `template` has its text. It
    sees the report as `data`, the section's headline as `headline`, and the names of `view`.
    """

    template: ClassVar[str | None] = None

    model_name: str
    job: str | None = None
    job_name: str | None = None
    spec: PruneSpec
    pins: Pins
    stages: tuple[NodeResult, ...]
    environment: Environment
    declared_memory_bytes: int | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """The fields that this section fills, from the artifacts that it reads."""
        return {}

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The section's part of the summary."""
        return None

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """Figures for the head of the page."""
        return ()

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """Sentences about what a reader must know before trusting the figures."""
        return ()

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """Names for the template, such as charts; None where the job has nothing for this section to show."""
        return {}


class ModelSection(Section):
    """A section of the report of one model, with what several of these sections read. The section that shows
    a field fills it; what a job does not have is None.

    `checkpoints`: digests of the artifacts by name (`dense`, `pruned`, `recovered`). `seeds`: every source of
    randomness by name. `warnings`: what a reader must know beside the remarks of the sections.
    """

    plan: SparsityPlan | None = None
    sparsity: SparsityTable | None = None
    dense: EvaluationResult
    pruned: EvaluationResult | None = None
    recovered: EvaluationResult | None = None
    checkpoints: dict[str, str]
    manifest_prefix: str
    manifest_digest: str | None = None
    seeds: dict[str, int] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def models(self) -> list[str]:
        """The models that were evaluated, in the order of the columns of tables."""
        evaluated = zip(MODELS, (self.dense, self.pruned, self.recovered), strict=True)
        return [name for name, evaluation in evaluated if evaluation is not None]

    @property
    def asked(self) -> float | None:
        """Sparsity that the spec asks for at the end."""
        recovery = self.spec.recovery
        if recovery is not None and recovery.keep.kind == "gradual":
            return recovery.keep.sparsity
        return self.plan.asked if self.plan is not None else None

    @property
    def keeps_plan(self) -> bool:
        """Whether the blocks are as sparse as the plan says: gradual pruning goes on after it."""
        recovery = self.spec.recovery
        return self.plan is not None and (recovery is None or recovery.keep.kind != "gradual")


def sections_of(report: type[Section]) -> tuple[type[Section], ...]:
    """The sections that a report inherits, in the order of its page."""
    return tuple(base for base in report.__bases__ if issubclass(base, Section))


def read_sections(report: type[Section], inputs: Inputs) -> dict[str, object]:
    """The fields that all sections of a report fill."""
    return {name: value for section in sections_of(report) for name, value in section.read(inputs).items()}
