"""The side file for programs: `secateur.json` beside the weights of a published checkpoint."""

import json
import re
from collections.abc import Mapping
from typing import Literal

from pipeline.allocations.measures import Measurements
from pipeline.artifacts.sparsity import LinearSparsity
from pipeline.artifacts.vocabulary import VocabularyTable
from pipeline.canonical import Frozen
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.task_comparison import TaskComparison
from pipeline.report.published import Published, Zeros
from pipeline.report.summary import seeds_of
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.structure.table import SizeTable

_TOKENIZER = re.compile(
    r"(tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt"
    r"|spiece\.model|chat_template\..*)"
)


class Digests(Frozen):
    """The SHA-256 digests of a job's checkpoints and of its published files. `<name>_checkpoint`: digests of
    artifacts; `weights`, `tokenizer`: path → digest of the published files."""

    dense_checkpoint: str
    pruned_checkpoint: str | None = None
    recovered_checkpoint: str | None = None
    weights: dict[str, str]
    tokenizer: dict[str, str]


class SideFile(Frozen):
    """Content of `secateur.json`. Fields that a job does not have are null."""

    format: Literal["secateur/1"] = "secateur/1"
    model_name: str
    spec: PruneSpec
    sizes: SizeTable | None = None
    vocabulary: VocabularyTable | None = None
    plan: SparsityPlan | None
    measurements: Measurements | None
    sparsity: float | None
    linears: tuple[LinearSparsity, ...]
    zeros: Zeros | None = None
    perplexity: tuple[Comparison, ...]
    tasks: tuple[TaskComparison, ...]
    digests: Digests
    versions: dict[str, str]
    seeds: dict[str, int]

    def to_json(self) -> bytes:
        """The bytes of the file: sorted keys, indented."""
        text = json.dumps(
            self.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False
        )
        return (text + "\n").encode()


def side_file(published: Published, *, files: Mapping[str, str]) -> SideFile:
    """Make the side file. `files`: path → SHA-256 of the published files; the side file lists those of
    weights and tokenizer. Raises UnequalContracts."""
    sparsity = published.sparsity
    checkpoints = {
        f"{which}_checkpoint": one.checkpoint_digest for which, one in published.evaluations.items()
    }
    return SideFile(
        model_name=published.model_name,
        spec=published.spec,
        sizes=published.sizes,
        vocabulary=published.vocabulary,
        plan=published.plan,
        measurements=published.measurements,
        sparsity=sparsity.sparsity if sparsity is not None else None,
        linears=sparsity.linears if sparsity is not None else (),
        zeros=published.zeros,
        perplexity=published.comparisons,
        tasks=published.tasks,
        digests=Digests(
            **checkpoints,
            weights={path: files[path] for path in sorted(files) if path.endswith(".safetensors")},
            tokenizer={path: files[path] for path in sorted(files) if _TOKENIZER.fullmatch(path)},
        ),
        versions=dict(sorted(published.versions.items())),
        seeds=seeds_of(published.spec),
    )
