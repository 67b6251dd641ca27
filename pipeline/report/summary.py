"""Summaries of a spec in one line, and its seeds."""

from collections.abc import Sequence

from pipeline.allocations import Allocation
from pipeline.methods import Method
from pipeline.methods.learned import LearnedMethod
from pipeline.report.quantity import human_count
from pipeline.request.prune_spec import PruneSpec, SpecTemplate
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.patterns import NM
from pipeline.spec.recovery import Recovery
from pipeline.spec.uri import parse_uri


def summary_line(spec: SpecTemplate) -> str:
    """A spec in one line, first pruning, then training: `wanda · owl · unstructured 0.5 · distillation, full,
    20M tokens`. Learned masks: `maskllm from wanda · uniform · 2:4 · 20M tokens`. A sweep: `sweep of 12 ·
    wanda, ria · owl, uniform · unstructured 0.5, 0.6, 0.7`."""
    if isinstance(spec, PruneSpec) and spec.sweep is not None:
        columns = zip(*(_words(member) for member in spec.members), strict=True)
        varied = [", ".join(dict.fromkeys(words)) for words in columns]
        return " · ".join([f"sweep of {len(spec.members)}", *_size_words(spec), *varied])
    parts = [*_size_words(spec), *_words(spec)]
    if spec.learned_method is not None:
        parts.append(learning_of(spec.learned_method.training))
    if spec.recovery is not None:
        parts.append(training_of(spec.recovery))
    return " · ".join(parts)


def titles_of(spec: PruneSpec) -> tuple[str, ...]:
    """A name for each member of a sweep: its method, allocation and pattern, with the parameters in which
    methods or allocations of the same kind differ."""
    members = [member.prune for member in spec.members if member.prune is not None]
    methods, allocations = [one.method for one in members], [one.allocation for one in members]
    return tuple(
        " · ".join((_distinguished(one.method, methods), _distinguished(one.allocation, allocations), kept))
        for one, (*_, kept) in zip(members, map(_words, spec.members), strict=True)
    )


def _distinguished(part: Method | Allocation, others: Sequence[Method | Allocation]) -> str:
    same = [one.model_dump() for one in others if one.kind == part.kind]
    own = part.model_dump(mode="json")
    differing = [name for name in own if any(one[name] != same[0][name] for one in same)]
    return " ".join([part.kind, *(f"{name}={_brief(own[name])}" for name in differing)])


def _brief(value: object) -> str:
    if isinstance(value, dict) and "kind" in value:
        return str(value["kind"])
    return f"{value:g}" if isinstance(value, float) else str(value)


def _size_words(spec: SpecTemplate) -> list[str]:
    """Words for structure: `vocabulary 16000`, `cut by activation: hidden_size 448, 27 blocks`."""
    structure = spec.structure
    if structure is None:
        return []
    words = [f"vocabulary {structure.vocabulary.rows}"] if structure.vocabulary is not None else []
    if structure.beside_vocabulary is None:
        return words
    sizes = [f"{size} {value}" for size, value in structure.asked.items()]
    drop = structure.drop_blocks
    if drop is not None:
        sizes.append(
            f"without {len(drop.blocks)} blocks"
            if drop.kind == "explicit"
            else f"{drop.num_blocks} blocks by {drop.kind.replace('_', ' ')}"
        )
    by = f" by {structure.criterion.kind}" if structure.ranks_by_criterion else ""
    if structure.experts is not None:
        merged = ", others merged" if structure.experts.merges else ""
        sizes.append(f"experts by {structure.experts.criterion.kind}{merged}")
    return [*words, f"cut{by}: {', '.join(sizes)}" if sizes else f"cut{by}"]


def _words(spec: SpecTemplate) -> list[str]:
    """Words for method, allocation and pattern; none without pruning."""
    if spec.prune is None:
        return []
    pattern = spec.prune.pattern
    kept = (
        f"{pattern.keep}:{pattern.group}" if isinstance(pattern, NM) else f"unstructured {pattern.target:g}"
    )
    return [_method_words(spec.prune.method), spec.prune.allocation.kind, kept]


def _method_words(method: Method) -> str:
    if not isinstance(method, LearnedMethod) or method.prior is None:
        return method.kind
    prior = method.prior.kind if method.prior.kind != "stored" else "stored masks"
    return f"{method.kind} from {prior}"


def learning_of(training: MaskTraining) -> str:
    """The objective of mask learning if it has a teacher, its scope if it is a block, and its budget."""
    words = [objective_of(training)] if training.needs_teacher else []
    if training.scope == "block":
        words.append("block by block")
    passes = f" × {training.epochs}" if training.epochs > 1 else ""
    tokens = training.sequences * training.text.sequence_length
    return ", ".join([*words, f"{human_count(tokens)} tokens{passes}"])


def training_of(recovery: Recovery) -> str:
    """The objective with its teacher, the trained parameters, the rule for zeros, and the budget."""
    trains, keep = recovery.trains, recovery.keep
    words = [] if trains.kind == "reconstruction" else [objective_of(recovery)]
    words.append(f"lora {trains.rank}" if trains.kind == "lora" else trains.kind.replace("_", " "))
    if keep.kind == "dynamic":
        words.append("dynamic zeros")
    elif keep.kind == "gradual":
        words.append(f"gradual to {keep.sparsity:g}")
    tokens = recovery.sequences * recovery.text.sequence_length
    passes = f" × {trains.epochs}" if trains.kind == "reconstruction" else ""
    return ", ".join([*words, f"{human_count(tokens)} tokens{passes}"])


def objective_of(recipe: Recovery | MaskTraining) -> str:
    """The objective in words, such as `language modelling`, `distillation`, or `distillation from <model>`
    where the spec names a teacher."""
    block_wise = (
        recipe.trains.kind == "reconstruction" if isinstance(recipe, Recovery) else recipe.scope == "block"
    )
    if block_wise:
        return "the dense block's output"
    words = recipe.objective.kind.replace("_", " ")
    if recipe.objective.kind != "distillation" or recipe.objective.teacher is None:
        return words
    return f"{words} from {name_of(recipe.objective.teacher.source)}"


def name_of(source: str) -> str:
    """A model's name on the hub, else the last part of its location, because pages must not contain paths."""
    uri = parse_uri(source)
    return uri.location if uri.scheme == "hub" else uri.location.rstrip("/").rsplit("/", 1)[-1]


def seeds_of(spec: PruneSpec) -> dict[str, int]:
    """Every source of randomness of a spec by name."""
    tasks = spec.evaluation.tasks
    learned = spec.learned_method
    return {
        **({"calibration": spec.calibration.seed} if spec.calibration is not None else {}),
        **({"mask learning": learned.training.text.seed} if learned is not None else {}),
        **({"training": spec.recovery.text.seed} if spec.recovery is not None else {}),
        **({"few-shot examples": tasks.seed} if tasks is not None else {}),
    }
