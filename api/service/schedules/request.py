"""The body of POST /schedules, which the client shares, and the checks across its fields."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from api.service.ids import LENGTH
from pipeline.canonical import Frozen
from pipeline.cron import Cron
from pipeline.errors import InvalidSpec
from pipeline.report.gate_grammar import GRAMMAR, GateText, parse
from pipeline.report.gates import check_measured
from pipeline.request.prune_spec import JobTemplate
from pipeline.spec.uri import SourceUri, parse_uri

Missed = Literal["run_once", "skip"]
Overlap = Literal["queue", "skip", "cancel"]
SCHEDULE_ID_PATTERN = rf"^sched-[0-9a-v]{{{LENGTH}}}$"
NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
OWN_LABELS = ("schedule", "checkpoint")
MAX_LABELS = 32


def _not_an_id(value: str) -> str:
    if re.fullmatch(SCHEDULE_ID_PATTERN, value):
        raise ValueError(f"got {value!r}, which reads as an id; choose another name")
    return value


def _has_arrivals(value: str) -> str:
    if parse_uri(value).scheme == "hub":
        raise ValueError(
            f"got {value!r}; nothing arrives below a hub repository: watch s3://bucket/prefix or "
            f"file:/directory, or leave on_new_checkpoint out and give cron and template.spec.model"
        )
    return value


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
ScheduleName = Annotated[Name, AfterValidator(_not_an_id)]


class OnNewCheckpoint(Frozen):
    """The place where checkpoints arrive, at any depth below `source`, and the sign that one is finished.

    With `ready_marker`, a complete checkpoint is taken as soon as its directory has a file of that name, and
    never without. Else it is taken when two looks, `look_seconds` apart, find the same files.
    """

    source: Annotated[SourceUri, AfterValidator(_has_arrivals)] = Field(
        max_length=900, examples=["s3://checkpoints/nightly"]
    )
    ready_marker: Annotated[str, StringConstraints(pattern=r"^[^/\x00-\x1f\x7f]{1,255}$")] | None = Field(
        default=None, examples=["_SUCCESS"]
    )
    look_seconds: int = Field(default=60, ge=1, le=86_400)
    existing: Literal["start", "ignore"] = Field(
        default="start",
        description="The policy for complete checkpoints that the first look finds: start or ignore them.",
    )


class ScheduleRequest(Frozen):
    """A standing order: when to fire, which job to start, and the gates that its result must pass.

    At least one of `cron` and `on_new_checkpoint` is needed. With both, new checkpoints are looked for all
    the time, and started at cron's moments.
    """

    name: ScheduleName = Field(examples=["nightly"])
    cron: Cron | None = None
    on_new_checkpoint: OnNewCheckpoint | None = None
    template: JobTemplate = Field(
        description="The body of POST /jobs; without `spec.model` if on_new_checkpoint fills it in."
    )
    gates: tuple[GateText, ...] = Field(
        default=(),
        max_length=32,
        examples=[["perplexity <= 1.2 * dense", "arc_easy >= dense - 0.02"]],
        description="All must hold, or the result is held back. " + GRAMMAR,
    )
    alias: Name | None = Field(
        default=None,
        description="The name that moves to every result that is promoted.",
        examples=["nightly"],
    )
    missed: Missed = Field(
        default="run_once",
        description="The policy for moments of cron at which no service ran: one job for the latest of them, "
        "or none.",
    )
    overlap: Overlap = Field(
        default="queue",
        description="The policy for a firing while an earlier job of the schedule has not ended: it is "
        "queued, skipped, or the earlier one is cancelled.",
    )
    paused: bool = False


class SchedulePatch(Frozen):
    """Fields of a ScheduleRequest. Each one that is given replaces the old one as a whole."""

    name: ScheduleName | None = None
    cron: Cron | None = None
    on_new_checkpoint: OnNewCheckpoint | None = None
    template: JobTemplate | None = None
    gates: tuple[GateText, ...] | None = Field(default=None, max_length=32)
    alias: Name | None = None
    missed: Missed | None = None
    overlap: Overlap | None = None
    paused: bool | None = None


def check(request: ScheduleRequest) -> None:
    """Raise InvalidSpec that names the field when fields of a request do not agree."""
    watch, spec = request.on_new_checkpoint, request.template.spec
    if spec.sweep is not None:
        raise InvalidSpec(
            "a sweep publishes nothing that a schedule could promote: leave it out, and put the chosen "
            "member into prune",
            "template.spec.sweep",
        )
    if request.cron is None and watch is None:
        raise InvalidSpec(
            "nothing makes this schedule fire: give cron (such as "
            '{"expression": "30 2 * * *", "timezone": "Europe/Berlin"}), on_new_checkpoint, or both',
            "cron",
        )
    if watch is None and spec.model is None:
        raise InvalidSpec(
            "template.spec.model is missing: cron says when to prune, but not which model; give it, or "
            "on_new_checkpoint",
            "template.spec.model",
        )
    if watch is not None and spec.model is not None:
        raise InvalidSpec(
            f"template.spec.model must be left out: the checkpoints that arrive below {watch.source} are the "
            f"models",
            "template.spec.model",
        )
    if len({*request.template.labels, *OWN_LABELS}) > MAX_LABELS:
        raise InvalidSpec(
            f"template.labels has no room for {' and '.join(OWN_LABELS)}, which every job of a schedule "
            f"gets; leave {len(OWN_LABELS)} of {MAX_LABELS} free",
            "template.labels",
        )
    _check_gates(request)


def _check_gates(request: ScheduleRequest) -> None:
    evaluation = request.template.spec.evaluation
    texts = [text.label for text in evaluation.perplexity]
    asked = evaluation.tasks
    tasks = [task.name for task in asked.asked] if asked is not None else []
    if asked is not None and asked.suite is not None:
        tasks.append(asked.suite)  # the average over the suite
    for i, text in enumerate(request.gates):
        try:
            check_measured(
                parse(text),
                texts=texts,
                tasks=tasks,
                sparse=request.template.spec.makes_zeros,
                own_tokenizers=request.template.spec.cuts_vocabulary,
            )
        except ValueError as error:
            raise InvalidSpec(f"gates.{i} {error}", f"gates.{i}") from None
