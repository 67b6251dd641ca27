"""The section that compares the members of a sweep, with a chart of those that no other member beats."""

from collections.abc import Mapping, Sequence
from typing import Self

import yaml

from pipeline.artifacts.sparsity import SparsityTable
from pipeline.canonical import Frozen
from pipeline.evaluation.comparison import Comparison, compare
from pipeline.evaluation.task_comparison import TaskComparison, compare_tasks
from pipeline.job.ledger import NodeResult
from pipeline.report.drawing.block_chart import BOTTOM, LEFT, PANEL_TOP, WIDTH, Tick
from pipeline.report.drawing.panels import RIGHT, CurveChart, CurvePanel, Dot, Line, axis
from pipeline.report.inputs import Inputs, task_evaluations, task_pairs
from pipeline.report.section import Section
from pipeline.report.summary import titles_of
from pipeline.request.prune_spec import Prune, PruneSpec
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan

HEIGHT = 300.0
MARGIN = 0.02  # in sparsity, on both sides of the axis, so that it has a length if all sparsities are equal


class SweepMember(Frozen):
    """One member. `number`: from 1, as in the nodes' ids. `sparsity`: as achieved. `seconds`: the time that
    its masks took. `checkpoint`: digest of the pruned checkpoint. `best`: True if no other member is at least
    as sparse and at least as good on the first text, and better in one of them."""

    number: int
    title: str
    prune: Prune
    sparsity: float
    perplexity: tuple[Comparison, ...]
    tasks: tuple[TaskComparison, ...] = ()
    seconds: float
    checkpoint: str
    notes: tuple[str, ...] = ()
    best: bool = False


class MembersSection(Section):
    """All members, in the order of the spec."""

    members: tuple[SweepMember, ...]

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read plan, zeros and figures of every member, and the time that its masks took."""
        specs = zip(inputs.spec.members, titles_of(inputs.spec), strict=True)
        members = [_member(i, spec, title, inputs) for i, (spec, title) in enumerate(specs, start=1)]
        best = best_of([(member.sparsity, member.perplexity[0].final) for member in members])
        return {
            "members": tuple(
                member.model_copy(update={"best": one}) for member, one in zip(members, best, strict=True)
            )
        }

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The chart, and each member as the `prune` of a job of its own."""
        return {
            "chart": sweep_chart(report.members),
            "member_yaml": {member.number: _prune_yaml(member.prune) for member in report.members},
        }


def best_of(points: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """For each point (sparsity, perplexity): True if no other point is as sparse or sparser and as good or
    better, without being equal in both (Pareto)."""
    return tuple(
        not any(
            sparsity >= own_sparsity
            and perplexity <= own_perplexity
            and (sparsity, perplexity) != (own_sparsity, own_perplexity)
            for sparsity, perplexity in points
        )
        for own_sparsity, own_perplexity in points
    )


def sweep_chart(members: Sequence[SweepMember]) -> CurveChart:
    """Draw perplexity on the first text over sparsity, with a line through the members that none beats."""
    points = [(member.sparsity, member.perplexity[0].final) for member in members]
    dense = members[0].perplexity[0].dense
    across, named = axis(min(x for x, _ in points) - MARGIN, max(x for x, _ in points) + MARGIN)
    upwards, ticks = axis(min(dense, *(y for _, y in points)), max(y for _, y in points))
    top, bottom = PANEL_TOP, PANEL_TOP + HEIGHT

    def x_of(sparsity: float) -> float:
        return round(LEFT + across(sparsity) * (WIDTH - LEFT - RIGHT), 2)

    def y_of(perplexity: float) -> float:
        return round(bottom - upwards(perplexity) * HEIGHT, 2)

    best = sorted(point for point, member in zip(points, members, strict=True) if member.best)
    path = "M" + "L".join(f"{x_of(x):g} {y_of(y):g}" for x, y in best)
    panel = CurvePanel(
        name="pareto",
        title=f"Perplexity of {members[0].perplexity[0].title} over sparsity",
        top=top,
        bottom=bottom,
        y_ticks=tuple(Tick(y_of(value), f"{value:g}") for value in ticks),
        lines=(Line("plain", path),),
        dots=tuple(
            Dot(
                "best" if member.best else "beaten",
                x_of(x),
                y_of(y),
                f"{member.number}: {member.title}, sparsity {x:.4f}, perplexity {y:.2f}",
            )
            for (x, y), member in zip(points, members, strict=True)
        ),
        reference=Tick(y_of(dense), f"dense {dense:.2f}"),
    )
    winner = members[min(range(len(points)), key=lambda i: points[i][1])]
    return CurveChart(
        width=WIDTH,
        height=bottom + BOTTOM,
        left=LEFT,
        right=WIDTH - RIGHT,
        panels=(panel,),
        x_ticks=tuple(Tick(x_of(value), f"{value:g}") for value in named),
        x_title="sparsity",
        marks=(),
        description=(
            f"{len(members)} members, {len(best)} of them beaten by none; lowest perplexity "
            f"{winner.perplexity[0].final:.2f} ({winner.title}), dense {dense:.2f}"
        ),
    )


def _member(number: int, spec: PruneSpec, title: str, inputs: Inputs) -> SweepMember:
    ending = f"@{number}"
    assert spec.prune is not None, "members prune"
    dense = inputs.load("dense", EvaluationResult)
    pruned = inputs.load(f"pruned{ending}", EvaluationResult)
    plan = inputs.load(f"plan{ending}", SparsityPlan)
    table = inputs.load(f"keep{ending}", SparsityTable)
    made = _pruned_by(inputs, inputs.refs[f"keep{ending}"].digest)
    return SweepMember(
        number=number,
        title=title,
        prune=spec.prune,
        sparsity=table.sparsity,
        perplexity=compare(dense, pruned, own_tokenizers=spec.cuts_vocabulary),
        tasks=compare_tasks(
            task_evaluations(inputs, "dense"),
            task_evaluations(inputs, "pruned", member=ending),
            pairs=task_pairs(inputs, "pruned", member=ending),
            own_tokenizers=spec.cuts_vocabulary,
        ),
        seconds=made.measured.seconds,
        checkpoint=made.artifacts["checkpoint"].digest,
        notes=plan.notes,
    )


def _pruned_by(inputs: Inputs, keep: str) -> NodeResult:
    """The node that made a member's masks; the first one, if several made equal masks."""
    return next(
        one for one in inputs.stages if one.node.startswith("prune@") and one.artifacts["keep"].digest == keep
    )


def _prune_yaml(prune: Prune) -> str:
    text: str = yaml.safe_dump({"prune": prune.model_dump(mode="json", exclude_none=True)}, sort_keys=False)
    return text
