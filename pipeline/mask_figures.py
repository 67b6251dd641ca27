"""What a report keeps of masks that were learned: their training, how they settled, and how they differ."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence

from pipeline.artifacts import LinearAgreement, MaskAgreement, MaskAgreements, SparsityTable
from pipeline.canonical import Frozen
from pipeline.methods.maskllm import MaskTraining
from pipeline.training import Curve, MaskRecord, TokensIndex
from pipeline.training_figures import TrainingFigures, training_figures

MOST_RECORDS = 40
MOST_POINTS = 600


class MaskPoint(Frozen):
    """A MaskRecord, its blocks together: `entropy`, `certainty` and `changed` are means over them."""

    step: int
    temperature: float
    scale: float
    entropy: float
    certainty: float
    changed: float


class MaskLearning(Frozen):
    """`training`: its curve has about MOST_RECORDS of the masks' records; `points`: about MOST_POINTS of
    them, blocks together; the first, the last and that of the result are among both. `agreements`: with the
    prior and with other masks that the spec names. `tokens`: what was trained on."""

    training: TrainingFigures
    points: tuple[MaskPoint, ...] = ()
    agreements: tuple[MaskAgreement, ...] = ()
    tokens: TokensIndex | None = None

    @property
    def outcome(self) -> MaskRecord | None:
        """The last record up to the step whose masks are the result."""
        masks, last = self.training.curve.masks, self.training.curve.result_step
        return next((record for record in reversed(masks) if record.step <= last), None)

    @property
    def result(self) -> MaskPoint | None:
        """`outcome`, blocks together: share of groups that end with another mask than they began with, and
        mean probability of the mask that a group ends with."""
        return None if self.outcome is None else _point(self.outcome)


def mask_learning(
    curve: Curve,
    training: MaskTraining,
    *,
    agreements: MaskAgreements | None = None,
    tokens: TokensIndex | None = None,
) -> MaskLearning:
    """From a whole curve, and what was asked for."""
    thinned = curve.model_copy(update={"masks": _thinned(curve, MOST_RECORDS)})
    return MaskLearning(
        training=training_figures(thinned, training),
        points=tuple(map(_point, _thinned(curve, MOST_POINTS))),
        agreements=agreements.agreements if agreements is not None else (),
        tokens=tokens,
    )


class AgreementRow(Frozen):
    """Linears of one name, or `all`: for each of the other masks the shares of groups with the same mask and
    of kept weights that both keep; None where it has no such linear."""

    name: str
    groups: tuple[float | None, ...]
    kept: tuple[float | None, ...]


def agreement_rows(
    agreements: Sequence[MaskAgreement], sparsity: SparsityTable | None
) -> tuple[AgreementRow, ...]:
    """A row for each kind of linear and one for all, in the order of the model; experts count as one kind.
    Linears weigh as many weights as they have, where `sparsity` knows them."""
    weights = {(one.block, one.linear): one.weights for one in (sparsity.linears if sparsity else ())}
    kinds = dict.fromkeys(kind_of(one.linear) for other in agreements for one in other.linears)
    rows = []
    for name in [*kinds, "all"]:
        chosen = [
            [one for one in other.linears if name in ("all", kind_of(one.linear))] for other in agreements
        ]
        rows.append(
            AgreementRow(
                name=name,
                groups=tuple(_mean(((one, one.groups) for one in some), weights) for some in chosen),
                kept=tuple(_mean(((one, one.kept) for one in some), weights) for some in chosen),
            )
        )
    return tuple(rows)


def kind_of(linear: str) -> str:
    """A linear's name with its expert's number left out, as there may be hundreds."""
    return re.sub(r"(?<=experts\.)\d+(?=\.)", "*", linear)


def _mean(
    values: Iterable[tuple[LinearAgreement, float]], weights: Mapping[tuple[int, str], int]
) -> float | None:
    found = [(value, weights.get((one.block, one.linear), 1)) for one, value in values]
    total = sum(weight for _, weight in found)
    return sum(value * weight for value, weight in found) / total if total else None


def _thinned(curve: Curve, most: int) -> tuple[MaskRecord, ...]:
    """Evenly; the first, the last and that of the result among them."""
    records = curve.masks
    if len(records) <= most:
        return records
    chosen = {i * (len(records) - 1) // (most - 1) for i in range(most)}
    chosen |= {i for i, record in enumerate(records) if record.step == curve.result_step}
    return tuple(records[i] for i in sorted(chosen))


def _point(record: MaskRecord) -> MaskPoint:
    return MaskPoint(
        step=record.step,
        temperature=record.temperature,
        scale=record.scale,
        entropy=statistics.fmean(block.entropy for block in record.blocks),
        certainty=statistics.fmean(block.certainty for block in record.blocks),
        changed=statistics.fmean(block.changed for block in record.blocks),
    )
