"""The facts in the model card (`model_card.py`, for people) and the side file (`side_file.py`, for programs).

They contain no times and no name of a job, so that equal jobs publish equal bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.allocations.measures import Measurements
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.artifacts.vocabulary import VocabularyTable
from pipeline.canonical import Frozen
from pipeline.evaluation.comparison import Comparison, compare
from pipeline.evaluation.task_comparison import TaskComparison
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.structure.table import SizeTable


class Zeros(Frozen):
    """A summary of `certificate.json`: the `held` weights of all `tensors` were zero at all `checks`."""

    tensors: int
    held: int
    checks: int


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model that is published. Parts that a job does not have are None. `evaluations`: by the name of the
    model: dense, pruned, recovered. `multimodal`: the model has a language model inside, which is what the
    job worked on. `writes_answers`: it has an encoder, and does not continue a text."""

    model_name: str
    spec: PruneSpec
    sizes: SizeTable | None = None
    vocabulary: VocabularyTable | None = None
    plan: SparsityPlan | None = None
    sparsity: SparsityTable | None = None
    measurements: Measurements | None = None
    evaluations: Mapping[str, EvaluationResult]
    tasks: tuple[TaskComparison, ...] = ()
    certificate: Certificate | None = None
    multimodal: bool = False
    versions: Mapping[str, str]
    writes_answers: bool = False

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The perplexities of all models. Raises UnequalContracts."""
        return compare(**self.evaluations, own_tokenizers=self.spec.cuts_vocabulary)

    @property
    def zeros(self) -> Zeros | None:
        """The certificate as three figures."""
        if self.certificate is None:
            return None
        certificate = self.certificate
        return Zeros(tensors=len(certificate.tensors), held=certificate.held, checks=len(certificate.checks))
