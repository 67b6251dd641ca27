"""The section that shows how the dense and the final model continue the same prompts."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.evaluation.behaviour import BehaviourComparison, BehaviourResult, compare_behaviour
from pipeline.report.inputs import MODELS, Inputs
from pipeline.report.quantity import human_share
from pipeline.report.section import Headline, ModelSection, Tile

SHOWN = 50  # prompts whose continuations the page shows; report.json has all


class BehaviourHeadline(Headline):
    """The comparison; None where the spec does not ask for it."""

    behaviour: BehaviourComparison | None = None


class BehaviourSection(ModelSection):
    """The continuations of both models. `final_behaviour` is of the model that is published."""

    dense_behaviour: BehaviourResult | None = None
    final_behaviour: BehaviourResult | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the continuations of the dense model, and of the last model that has some."""
        found = [inputs.find(f"behaviour:{which}", BehaviourResult) for which in MODELS]
        return {
            "dense_behaviour": found[0],
            "final_behaviour": next((one for one in reversed(found[1:]) if one is not None), None),
        }

    @property
    def behaviour(self) -> BehaviourComparison | None:
        """The comparison of both models. Raises UnequalContracts."""
        if self.dense_behaviour is None or self.final_behaviour is None:
            return None
        return compare_behaviour(
            self.dense_behaviour,
            self.final_behaviour,
            self.models[-1],
            own_tokenizers=self.spec.cuts_vocabulary,
        )

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The comparison. Raises UnequalContracts."""
        return BehaviourHeadline(behaviour=report.behaviour)

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """A tile for repetition, which shows first when a model breaks."""
        compared = report.behaviour
        if compared is not None:
            yield Tile(
                "Repetition",
                f"{human_share(compared.dense.repetition)} → {human_share(compared.final.repetition)}",
                f"dense → {report.models[-1]}, {compared.prompts} prompts",
            )

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The pairs of continuations; None where there are none."""
        dense, final = report.dense_behaviour, report.final_behaviour
        if dense is None or final is None:
            return None
        pairs = list(zip(dense.continuations, final.continuations, strict=True))
        return {"pairs": pairs[:SHOWN], "more_pairs": len(pairs) - SHOWN}
