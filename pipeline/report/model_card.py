"""The model card, README.md beside the weights of a published checkpoint, and the card of an adapter."""

import re
from dataclasses import dataclass

import jinja2
import yaml

from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.refs import MASKS_PATH, CertificateRef
from pipeline.evaluation.task_comparison import limits_of
from pipeline.report.published import Published
from pipeline.report.quantity import human_count, human_metric, human_perplexity, human_share
from pipeline.report.summary import name_of, objective_of, summary_line
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.eval_tasks import LM_EVAL_VERSION
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.uri import parse_uri
from pipeline.structure.table import SizeTable

SIDE_FILE = "secateur.json"


def model_card(published: Published, *, adapter: str | None = None) -> str:
    """Write README.md with the front matter of a model card. `adapter`: the directory of an adapter that is
    published beside the model. Raises UnequalContracts."""
    spec, recovery = published.spec, published.spec.recovery
    sparsity = published.sparsity.sparsity if published.sparsity is not None else None
    auto_class, task = _opened_as(published)
    template = _templates().get_template("model_card.md.j2")
    return template.render(
        front_matter=_front_matter(published, task=task),
        multimodal=published.multimodal,
        auto_class=auto_class,
        model_name=published.model_name,
        base_model=_base_model(spec, model_name=published.model_name),
        recipe=summary_line(spec),
        done=_done(spec, published.sizes, sparsity),
        work=_work(spec),
        sizes=published.sizes,
        vocabulary=published.vocabulary,
        spec=spec,
        learning=_learning(spec),
        recovery=recovery,
        objective=objective_of(recovery) if recovery is not None else None,
        plan=published.plan,
        sparsity=sparsity,
        zeros=published.zeros,
        models=tuple(published.evaluations),
        comparisons=published.comparisons,
        tasks=tuple(task for task in published.tasks if task.main),
        harness_version=LM_EVAL_VERSION,
        limits=limits_of(published.tasks),
        adapter=adapter,
        versions=dict(sorted(published.versions.items())),
        side_file=SIDE_FILE,
        certificate_file=CertificateRef.path_of(Certificate),
        masks_file=MASKS_PATH,
    )


def adapter_card(*, model_name: str, base: str, masked: bool) -> str:
    """Write README.md of a published adapter. `base`: the model it was trained on; `masked`: True if that
    model has zeros."""
    template = _templates().get_template("adapter_card.md.j2")
    return template.render(model_name=model_name, base=base, masked=masked)


def markdown_text(value: object) -> str:
    """Escape any text as one line of Markdown that shows it literally, in table cells too."""
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


def _opened_as(published: Published) -> tuple[str, str]:
    """The class that opens the model, and what hubs call what it does."""
    if published.multimodal:
        return "AutoModelForMultimodalLM", "image-text-to-text"
    if published.writes_answers:
        return "AutoModelForSeq2SeqLM", "text2text-generation"
    return "AutoModelForCausalLM", "text-generation"


def _front_matter(published: Published, *, task: str) -> str:
    spec = published.spec
    cut = ["pruned"] if spec.structure is not None or spec.prune is not None else []
    pruned = [*cut, "secateur", *(["sparse", spec.prune.method.kind] if spec.prune is not None else [])]
    trained = [spec.recovery.objective.kind.replace("_", "-")] if spec.recovery is not None else []
    text: str = yaml.safe_dump(
        {
            "base_model": _base_model(spec, model_name=published.model_name),
            "library_name": "transformers",
            "pipeline_tag": task,
            "tags": [*pruned, *trained],
        },
        sort_keys=False,
        allow_unicode=True,
    )
    return text


def _done(spec: PruneSpec, sizes: SizeTable | None, sparsity: float | None) -> str:
    """A sentence part such as `cut to 98M parameters, pruned to sparsity 0.5 and trained after it`."""
    parts = []
    if sizes is not None:
        parts.append(f"cut to {human_count(sizes.cut_parameters)} parameters")
    if sparsity is not None:
        learned = " with learned masks" if spec.learns_masks else ""
        parts.append(f"pruned to sparsity {sparsity:.4g}{learned}")
    if not parts:
        return "trained further"
    return ", ".join(parts) + (" and trained after it" if spec.recovery is not None else "")


def _work(spec: PruneSpec) -> str:
    if spec.structure is None and not spec.makes_zeros:
        return "training"
    return "pruning and recovery training" if spec.recovery is not None else "pruning"


@dataclass(frozen=True)
class _Learning:
    """The facts about learned masks. `text`: the training text; `prior`: the start of learning."""

    training: MaskTraining
    objective: str
    text: str
    prior: str


def _learning(spec: PruneSpec) -> _Learning | None:
    method = spec.learned_method
    if method is None:
        return None
    prior = "random logits" if method.prior is None else f"the masks of {method.prior.kind}"
    return _Learning(
        training=method.training,
        objective=objective_of(method.training),
        text=name_of(method.training.text.source),
        prior="stored masks" if method.prior is not None and method.prior.kind == "stored" else prior,
    )


def _base_model(spec: PruneSpec, *, model_name: str) -> str:
    """The model's name on the hub, else its own name, because published files must not contain paths."""
    return name_of(spec.model.source) if parse_uri(spec.model.source).scheme == "hub" else model_name
