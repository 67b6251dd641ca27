"""All kinds of stages, with their versions and inputs, and the key under which a stage's result is stored.

A file holds the stages of one part of a job. `Stage` is the union of all.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, JsonValue

from pipeline.artifacts.refs import ArtifactRef
from pipeline.canonical import digest_of
from pipeline.dag.stages.pruning import (
    Allocate,
    ChoosePlan,
    CompareMasks,
    MeasureBlocks,
    MeasureStatistics,
    PruneBlocks,
    ScoreHeldOut,
)
from pipeline.dag.stages.quantizing import Quantize, RoundBlocks
from pipeline.dag.stages.results import (
    Behave,
    Evaluate,
    EvaluateTask,
    Publish,
    Report,
    ReportSweep,
    Verify,
)
from pipeline.dag.stages.serving import ExportTarget, MeasureServing, OpenTarget
from pipeline.dag.stages.sources import (
    Calibrate,
    CalibrateSelf,
    CheckTasks,
    HoldOut,
    ImportKeep,
    ImportModel,
    PrepareText,
)
from pipeline.dag.stages.structure import CountTokens, CutVocabulary, Slice
from pipeline.dag.stages.training import LearnMasks, Recover

Stage = Annotated[
    ImportModel
    | Calibrate
    | CalibrateSelf
    | CountTokens
    | CutVocabulary
    | MeasureStatistics
    | Slice
    | MeasureBlocks
    | Allocate
    | HoldOut
    | ScoreHeldOut
    | ChoosePlan
    | PruneBlocks
    | ImportKeep
    | CompareMasks
    | LearnMasks
    | PrepareText
    | Recover
    | Evaluate
    | CheckTasks
    | EvaluateTask
    | Behave
    | RoundBlocks
    | Quantize
    | ExportTarget
    | Publish
    | OpenTarget
    | Verify
    | MeasureServing
    | Report
    | ReportSweep,
    Field(discriminator="kind"),
]


def stage_key(stage: Stage, inputs: Mapping[str, ArtifactRef], *, salt: str | None = None) -> str:
    """The SHA-256 over name, version, all fields (defaults too) and the digests of the input artifacts.

    The locations of texts are left out: the same content elsewhere is the same work. (Published files name
    their sources, so `Publish` includes them.) With `salt` the key is of a job's own, so that nothing that
    was stored for other jobs is found.
    """
    fields: JsonValue = stage.model_dump(mode="json")
    if stage.names_sources:
        fields = _without_sources(fields)
    return digest_of(
        {
            "stage": stage.kind,
            "version": stage.version,
            "fields": fields,
            "inputs": {name: artifact.digest for name, artifact in sorted(inputs.items())},
            **({"salt": salt} if salt is not None else {}),
        }
    )


def _without_sources(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _without_sources(inner) for name, inner in value.items() if name != "source"}
    if isinstance(value, list):
        return [_without_sources(inner) for inner in value]
    return value
