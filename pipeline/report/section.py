"""A section of a report: its data and their artifacts, its figures, and the names for its template.

A report is a class that inherits its sections (see `data.py`), so that `report.json` has the fields of all on
one level. Methods of a section are class methods that take the whole report: `ZerosSection.view(report)`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import Field

from pipeline.artifacts.environment import Environment
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.canonical import Frozen
from pipeline.job.estimate import Estimate
from pipeline.job.ledger import NodeResult
from pipeline.report.inputs import MODELS, Inputs
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pins
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan


class Headline(Frozen):
    """The figures of a section in the `summary` of `report.json`, which tables of jobs show."""


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page. `small`: the words below it; `wide`: True if it takes the place of
    two; `work`: True if it describes the work, so that it follows the figures that describe the result."""

    title: str
    value: str
    small: str
    wide: bool = False
    work: bool = False


class Section(Frozen):
    """A section of a report, with the facts of its job. `stages`: the nodes that were done before the report,
    in plan order; `estimates`: what some of them were expected to cost. `declared_memory_bytes`: declared
    memory of each worker.

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
    estimates: tuple[Estimate, ...] = ()
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
        """The figures for the head of the page."""
        return ()

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """Warnings that a reader must know before trusting the figures."""
        return ()

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The names for the template, such as charts; None where this section has nothing to show."""
        return {}


class ModelSection(Section):
    """A section of the report of one model, with the fields that several of these sections read. The section
    that shows a field fills it; fields that a job does not have are None.

    `checkpoints`: digests of the artifacts by name (`dense`, `pruned`, `recovered`). `seeds`: every source of
    randomness by name. `warnings`: warnings beside the remarks of the sections.
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
        """The sparsity that the spec asks for at the end."""
        recovery = self.spec.recovery
        if recovery is not None and recovery.keep.kind == "gradual":
            return recovery.keep.sparsity
        return self.plan.asked if self.plan is not None else None

    @property
    def keeps_plan(self) -> bool:
        """True if the blocks are as sparse as the plan says. Gradual recovery prunes more than the plan."""
        recovery = self.spec.recovery
        return self.plan is not None and (recovery is None or recovery.keep.kind != "gradual")


def sections_of(report: type[Section]) -> tuple[type[Section], ...]:
    """The sections that a report inherits, in the order of its page."""
    return tuple(base for base in report.__bases__ if issubclass(base, Section))


def read_sections(report: type[Section], inputs: Inputs) -> dict[str, object]:
    """The fields that all sections of a report fill."""
    return {name: value for section in sections_of(report) for name, value in section.read(inputs).items()}
