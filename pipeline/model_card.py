"""What lies beside the weights of a published checkpoint: a README.md for people, secateur.json for programs.

Both are deterministic, so that equal jobs publish equal bytes.
"""

import json
import re
from collections.abc import Mapping
from typing import Literal

import jinja2
import yaml

from pipeline.artifacts import LinearSparsity, Outliers, SparsityTable
from pipeline.canonical import Frozen
from pipeline.comparison import Comparison, TaskComparison, compare
from pipeline.eval_tasks import LM_EVAL_VERSION
from pipeline.evaluation import EvaluationResult
from pipeline.plan import SparsityPlan
from pipeline.quantity import human_metric, human_perplexity
from pipeline.report import limits_of, recipe_of, seeds_of
from pipeline.sources.uri import parse_uri
from pipeline.spec import PruneSpec

SIDE_FILE = "secateur.json"
_TOKENIZER = re.compile(
    r"(tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt"
    r"|spiece\.model|chat_template\..*)"
)


class Digests(Frozen):
    """SHA-256 of what was pruned and of what is published. `dense_checkpoint`, `pruned_checkpoint`: of the
    artifacts; `weights`, `tokenizer`: path → digest of the published files."""

    dense_checkpoint: str
    pruned_checkpoint: str
    weights: dict[str, str]
    tokenizer: dict[str, str]


class SideFile(Frozen):
    """Content of `secateur.json`."""

    format: Literal["secateur/1"] = "secateur/1"
    model_name: str
    spec: PruneSpec
    plan: SparsityPlan
    outliers: Outliers | None
    sparsity: float
    linears: tuple[LinearSparsity, ...]
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


def side_file(
    *,
    model_name: str,
    spec: PruneSpec,
    plan: SparsityPlan,
    sparsity: SparsityTable,
    outliers: Outliers | None,
    dense: EvaluationResult,
    pruned: EvaluationResult,
    tasks: tuple[TaskComparison, ...] = (),
    files: Mapping[str, str],
    versions: Mapping[str, str],
) -> SideFile:
    """`files`: path → SHA-256 of the published files, of which weights and tokenizer are named. Raises
    UnequalContracts."""
    return SideFile(
        model_name=model_name,
        spec=spec,
        plan=plan,
        outliers=outliers,
        sparsity=sparsity.sparsity,
        linears=sparsity.linears,
        perplexity=compare(dense, pruned),
        tasks=tasks,
        digests=Digests(
            dense_checkpoint=dense.checkpoint_digest,
            pruned_checkpoint=pruned.checkpoint_digest,
            weights={path: files[path] for path in sorted(files) if path.endswith(".safetensors")},
            tokenizer={path: files[path] for path in sorted(files) if _TOKENIZER.fullmatch(path)},
        ),
        versions=dict(sorted(versions.items())),
        seeds=seeds_of(spec),
    )


def model_card(
    *,
    model_name: str,
    spec: PruneSpec,
    plan: SparsityPlan,
    sparsity: SparsityTable,
    dense: EvaluationResult,
    pruned: EvaluationResult,
    tasks: tuple[TaskComparison, ...] = (),
    versions: Mapping[str, str],
) -> str:
    """README.md with the front matter of a model card. Raises UnequalContracts."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "."),
        autoescape=False,  # Markdown: the filter `text` escapes
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": markdown_text, "perplexity": human_perplexity, "metric": human_metric}
    return environment.get_template("model_card.md.j2").render(
        front_matter=_front_matter(spec, model_name=model_name),
        model_name=model_name,
        base_model=_base_model(spec, model_name=model_name),
        recipe=recipe_of(spec),
        spec=spec,
        asked=plan.asked,
        lowest=min(plan.sparsity),
        highest=max(plan.sparsity),
        sparsity=sparsity.sparsity,
        notes=plan.notes,
        comparisons=compare(dense, pruned),
        tasks=tuple(task for task in tasks if task.main),
        harness_version=LM_EVAL_VERSION,
        limits=limits_of(tasks),
        versions=dict(sorted(versions.items())),
        side_file=SIDE_FILE,
    )


def markdown_text(value: object) -> str:
    """Any text as one line of Markdown that shows it literally, in table cells too."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>#|~&$!])", r"\\\1", line)


def _front_matter(spec: PruneSpec, *, model_name: str) -> str:
    text: str = yaml.safe_dump(
        {
            "base_model": _base_model(spec, model_name=model_name),
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["pruned", "secateur", "sparse", spec.prune.method.kind],
        },
        sort_keys=False,
        allow_unicode=True,
    )
    return text


def _base_model(spec: PruneSpec, *, model_name: str) -> str:
    """The hub's name, else the last part of where the model lay: our paths are nobody's business."""
    uri = parse_uri(spec.model.source)
    return uri.location if uri.scheme == "hub" else model_name
