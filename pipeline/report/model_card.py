"""What lies beside the weights of a published checkpoint: README.md for people, secateur.json for programs,
and the README.md of an adapter.

All are deterministic, so that equal jobs publish equal bytes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jinja2
import yaml

from pipeline.allocations.measures import Measurements
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.refs import MASKS_PATH, CertificateRef
from pipeline.artifacts.sparsity import LinearSparsity, SparsityTable
from pipeline.artifacts.vocabulary import VocabularyTable
from pipeline.canonical import Frozen
from pipeline.evaluation.comparison import Comparison, TaskComparison, compare
from pipeline.methods.maskllm import MaskLLM, MaskTraining
from pipeline.report.data import limits_of
from pipeline.report.quantity import human_count, human_metric, human_perplexity, human_share
from pipeline.report.summary import name_of, objective_of, recipe_of, seeds_of
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.eval_tasks import LM_EVAL_VERSION
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.spec.uri import parse_uri
from pipeline.structure.table import SizeTable

SIDE_FILE = "secateur.json"
_TOKENIZER = re.compile(
    r"(tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt"
    r"|spiece\.model|chat_template\..*)"
)


class Digests(Frozen):
    """SHA-256 of what was pruned or trained and of what is published. `<name>_checkpoint`: of the artifacts;
    `weights`, `tokenizer`: path → digest of the published files."""

    dense_checkpoint: str
    pruned_checkpoint: str | None = None
    recovered_checkpoint: str | None = None
    weights: dict[str, str]
    tokenizer: dict[str, str]


class Zeros(Frozen):
    """What `certificate.json` comes to: weights of so many tensors were zero at every check."""

    tensors: int
    held: int
    checks: int


class SideFile(Frozen):
    """Content of `secateur.json`. What a job does not have is null."""

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


def side_file(
    *,
    model_name: str,
    spec: PruneSpec,
    sizes: SizeTable | None = None,
    vocabulary: VocabularyTable | None = None,
    plan: SparsityPlan | None,
    sparsity: SparsityTable | None,
    measurements: Measurements | None,
    evaluations: Mapping[str, EvaluationResult],
    tasks: tuple[TaskComparison, ...] = (),
    certificate: Certificate | None = None,
    files: Mapping[str, str],
    versions: Mapping[str, str],
) -> SideFile:
    """`evaluations`: by model: dense, pruned, recovered. `files`: path → SHA-256 of the published files, of
    which weights and tokenizer are named. Raises UnequalContracts."""
    return SideFile(
        model_name=model_name,
        spec=spec,
        sizes=sizes,
        vocabulary=vocabulary,
        plan=plan,
        measurements=measurements,
        sparsity=sparsity.sparsity if sparsity is not None else None,
        linears=sparsity.linears if sparsity is not None else (),
        zeros=_zeros(certificate),
        perplexity=compare(**evaluations, own_tokenizers=spec.cuts_vocabulary),
        tasks=tasks,
        digests=Digests(
            **{f"{which}_checkpoint": one.checkpoint_digest for which, one in evaluations.items()},
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
    sizes: SizeTable | None = None,
    vocabulary: VocabularyTable | None = None,
    plan: SparsityPlan | None,
    sparsity: SparsityTable | None,
    evaluations: Mapping[str, EvaluationResult],
    tasks: tuple[TaskComparison, ...] = (),
    certificate: Certificate | None = None,
    adapter: str | None = None,
    versions: Mapping[str, str],
) -> str:
    """README.md with the front matter of a model card. `adapter`: the directory of one that is published
    beside the model. Raises UnequalContracts."""
    return (
        _templates()
        .get_template("model_card.md.j2")
        .render(
            front_matter=_front_matter(spec, model_name=model_name),
            model_name=model_name,
            base_model=_base_model(spec, model_name=model_name),
            recipe=recipe_of(spec),
            done=_done(spec, sizes, sparsity),
            work=_work(spec),
            sizes=sizes,
            vocabulary=vocabulary,
            spec=spec,
            learning=_learning(spec),
            recovery=spec.recovery,
            objective=objective_of(spec.recovery) if spec.recovery is not None else None,
            plan=plan,
            sparsity=sparsity.sparsity if sparsity is not None else None,
            zeros=_zeros(certificate),
            models=tuple(evaluations),
            comparisons=compare(**evaluations, own_tokenizers=spec.cuts_vocabulary),
            tasks=tuple(task for task in tasks if task.main),
            harness_version=LM_EVAL_VERSION,
            limits=limits_of(tasks),
            adapter=adapter,
            versions=dict(sorted(versions.items())),
            side_file=SIDE_FILE,
            certificate_file=CertificateRef.path_of(Certificate),
            masks_file=MASKS_PATH,
        )
    )


def adapter_card(*, model_name: str, base: str, masked: bool) -> str:
    """README.md of a published adapter. `base`: what it was trained on; `masked`: whether that has zeros."""
    template = _templates().get_template("adapter_card.md.j2")
    return template.render(model_name=model_name, base=base, masked=masked)


def markdown_text(value: object) -> str:
    """Any text as one line of Markdown that shows it literally, in table cells too."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>#|~&$!])", r"\\\1", line)


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "."),
        autoescape=False,  # Markdown: the filter `text` escapes
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "text": markdown_text,
        "perplexity": human_perplexity,
        "metric": human_metric,
        "share": human_share,
    }
    return environment


def _front_matter(spec: PruneSpec, *, model_name: str) -> str:
    cut = ["pruned"] if spec.structure is not None or spec.prune is not None else []
    pruned = [*cut, "secateur", *(["sparse", spec.prune.method.kind] if spec.prune is not None else [])]
    trained = [spec.recovery.objective.kind.replace("_", "-")] if spec.recovery is not None else []
    text: str = yaml.safe_dump(
        {
            "base_model": _base_model(spec, model_name=model_name),
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": [*pruned, *trained],
        },
        sort_keys=False,
        allow_unicode=True,
    )
    return text


def _done(spec: PruneSpec, sizes: SizeTable | None, sparsity: SparsityTable | None) -> str:
    """`cut to 98M parameters, pruned to sparsity 0.5 and trained after it`."""
    parts = []
    if sizes is not None:
        parts.append(f"cut to {human_count(sizes.cut_parameters)} parameters")
    if sparsity is not None:
        learned = " with learned masks" if spec.learns_masks else ""
        parts.append(f"pruned to sparsity {sparsity.sparsity:.4g}{learned}")
    if not parts:
        return "trained further"
    return ", ".join(parts) + (" and trained after it" if spec.recovery is not None else "")


def _work(spec: PruneSpec) -> str:
    if spec.structure is None and not spec.makes_zeros:
        return "training"
    return "pruning and recovery training" if spec.recovery is not None else "pruning"


@dataclass(frozen=True)
class _Learning:
    """`text`: that masks were learned on; `prior`: where they began."""

    training: MaskTraining
    objective: str
    text: str
    prior: str


def _learning(spec: PruneSpec) -> _Learning | None:
    method = spec.prune.method if spec.prune is not None else None
    if not isinstance(method, MaskLLM):
        return None
    prior = "random logits" if method.prior is None else f"the masks of {method.prior.kind}"
    return _Learning(
        training=method.training,
        objective=objective_of(method.training),
        text=name_of(method.training.text.source),
        prior="stored masks" if method.prior is not None and method.prior.kind == "stored" else prior,
    )


def _zeros(certificate: Certificate | None) -> Zeros | None:
    if certificate is None:
        return None
    held = sum(tensor.held for tensor in certificate.tensors)
    return Zeros(tensors=len(certificate.tensors), held=held, checks=len(certificate.checks))


def _base_model(spec: PruneSpec, *, model_name: str) -> str:
    """The hub's name, else that of the model: our paths are nobody's business."""
    return name_of(spec.model.source) if parse_uri(spec.model.source).scheme == "hub" else model_name
