"""The stages that choose masks: they measure, allocate sparsity to blocks, prune them, and compare masks."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.allocations import Candidate, Contest
from pipeline.allocations.measures import Measure
from pipeline.dag.stages.base import BaseStage
from pipeline.methods import OneShot
from pipeline.spec.model import Dtype
from pipeline.spec.patterns import Pattern
from pipeline.spec.propagation import Propagation
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.tensor.needs import Statistic


class MeasureStatistics(BaseStage):
    """A dense sweep over all blocks, which measures statistics of every linear's input. `needs` is sorted.
    `reproducible`: see PruneSpec; it matters for Hessians only."""

    kind: Literal["measure_statistics"] = "measure_statistics"
    outputs: ClassVar = ("statistics",)
    unit: ClassVar = "block"
    needs: tuple[Statistic, ...]
    compute_dtype: Dtype
    reproducible: bool = Field(default=True, exclude_if=bool)


class MeasureBlocks(BaseStage):
    """Weights, and statistics if the measure takes them → a number per block for the allocation."""

    kind: Literal["measure_blocks"] = "measure_blocks"
    outputs: ClassVar = ("measurements",)
    unit: ClassVar = "block"
    measure: Measure


class Allocate(BaseStage):
    """Measurements → SparsityPlan."""

    kind: Literal["allocate"] = "allocate"
    version: ClassVar = 2
    outputs: ClassVar = ("plan",)
    allocation: Candidate
    pattern: Pattern


class ScoreHeldOut(BaseStage):
    """A checkpoint's loss on samples."""

    kind: Literal["judge"] = "judge"
    outputs: ClassVar = ("score",)
    unit: ClassVar = "block"
    compute_dtype: Dtype


class ChoosePlan(BaseStage):
    """`plan:i` and `score:i` of every entrant → the winner's plan, and the table."""

    kind: Literal["choose_plan"] = "choose_plan"
    outputs: ClassVar = ("plan", "tournament")
    tournament: Contest


class PruneBlocks(BaseStage):
    """Masks block by block; each finished block is stored, so that a later attempt continues after it. Takes
    `samples` if blocks must be run, and with `propagation: dense` the `statistics` of a dense sweep.
    `reproducible`: see PruneSpec; it matters where Hessians are measured, or blocks are reconstructed."""

    kind: Literal["prune"] = "prune"
    version: ClassVar = 2
    outputs: ClassVar = ("checkpoint", "keep")
    unit: ClassVar = "block"
    method: OneShot
    propagation: Propagation
    reconstruction: BlockReconstruction | None
    compute_dtype: Dtype
    reproducible: bool = Field(default=True, exclude_if=bool)


class CompareMasks(BaseStage):
    """The overlap of `keep` with `other:<name>` for each of `others`, by the patterns of `plan`."""

    kind: Literal["compare_masks"] = "compare_masks"
    outputs: ClassVar = ("agreements",)
    unit: ClassVar = "mask file"
    others: tuple[str, ...]
