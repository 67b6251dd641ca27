"""What a spec does, in one line, and where its randomness comes from."""

from pipeline.patterns import NM
from pipeline.quantity import human_count
from pipeline.recovery import Recovery
from pipeline.sources.uri import parse_uri
from pipeline.spec import PruneSpec, SpecTemplate


def recipe_of(spec: SpecTemplate) -> str:
    """`wanda · owl · unstructured 0.5 · distillation, full, 20M tokens`: what prunes, then what trains."""
    parts = []
    if spec.prune is not None:
        pattern = spec.prune.pattern
        kept = (
            f"{pattern.keep}:{pattern.group}"
            if isinstance(pattern, NM)
            else f"unstructured {pattern.target:g}"
        )
        parts += [spec.prune.method.kind, spec.prune.allocation.kind, kept]
    if spec.recovery is not None:
        parts.append(training_of(spec.recovery))
    return " · ".join(parts)


def training_of(recovery: Recovery) -> str:
    """Objective with its teacher, what trains, what becomes of the zeros, and the budget."""
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


def objective_of(recovery: Recovery) -> str:
    """`language modelling`, `distillation`, or `distillation from <model>` where the spec names a teacher."""
    if recovery.trains.kind == "reconstruction":
        return "the dense block's output"
    words = recovery.objective.kind.replace("_", " ")
    if recovery.objective.kind != "distillation" or recovery.objective.teacher is None:
        return words
    return f"{words} from {name_of(recovery.objective.teacher.source)}"


def name_of(source: str) -> str:
    """The hub's name of a model, else the last part of where it lies: our paths are nobody's business."""
    uri = parse_uri(source)
    return uri.location if uri.scheme == "hub" else uri.location.rstrip("/").rsplit("/", 1)[-1]


def seeds_of(spec: PruneSpec) -> dict[str, int]:
    """Every source of randomness of a spec by name."""
    tasks = spec.evaluation.tasks
    return {
        **({"calibration": spec.calibration.seed} if spec.calibration is not None else {}),
        **({"training": spec.recovery.text.seed} if spec.recovery is not None else {}),
        **({"few-shot examples": tasks.seed} if tasks is not None else {}),
    }
