"""The part of a DAG that evaluates: perplexities, tasks and behaviour of the checkpoints of a job."""

from collections.abc import Iterable, Iterator

from pipeline.architecture.rows import row_for
from pipeline.dag.nodes import Input, Node
from pipeline.dag.stages.results import Behave, Evaluate, EvaluateTask
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import PinnedFile, Pins
from pipeline.spec.evaluation import Evaluation
from pipeline.spec.prompts import Prompts, PromptText


def evaluation_nodes(which: str, checkpoint: Input, spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    """A node for all perplexities of a checkpoint, and a node for each task."""
    texts = pins.below(spec.evaluation.perplexity, "spec.evaluation.perplexity")
    evaluate = Evaluate(
        texts=tuple(pin.files for pin in texts),
        evaluation=_named(spec.evaluation),
        compute_dtype=spec.dtype,
        pairs=row_for(pins.facts.model_type).pairs,
    )
    yield Node(id=f"evaluate:{which}", stage=evaluate, inputs={"checkpoint": checkpoint})
    tasks = spec.evaluation.tasks
    for task in tasks.asked if tasks is not None else ():
        assert tasks is not None, "there is one"
        ask = EvaluateTask(
            task=task,
            batch_size=tasks.batch_size,
            seed=tasks.seed,
            compute_dtype=spec.dtype,
            bos=row_for(pins.facts.model_type).bos,
            engine=None if tasks.engine == "transformers" else tasks.engine,
        )
        asked = Input(node="check_tasks", artifact=task.name)
        yield Node(
            id=task_node(which, task.name), stage=ask, inputs={"checkpoint": checkpoint, "task": asked}
        )


def behaviour_nodes(checkpoints: dict[str, Input], spec: PruneSpec, pins: Pins) -> Iterator[Node]:
    """A node for the dense and one for the final checkpoint, if the spec asks how they write."""
    behaviour = spec.evaluation.behaviour
    if behaviour is None:
        return
    stage = Behave(
        files=prompt_files(behaviour.prompts, "spec.evaluation.behaviour.prompts", pins),
        behaviour=behaviour,
        bos=row_for(pins.facts.model_type).bos,
        compute_dtype=spec.dtype,
    )
    for which in ("dense", list(checkpoints)[-1]):
        yield Node(id=f"behaviour:{which}", stage=stage, inputs={"checkpoint": checkpoints[which]})


def figures(which: str, nodes: Iterable[Node]) -> dict[str, Input]:
    """The artifacts of a checkpoint's evaluation nodes, by the names that `publish` and `report` know."""
    return {
        which if isinstance(node.stage, Evaluate) else node.id: Input(
            node=node.id, artifact=node.stage.outputs[0]
        )
        for node in nodes
        if isinstance(node.stage, (Evaluate, EvaluateTask))
    }


def task_node(which: str, task: str) -> str:
    """The id of the node that evaluates the `dense`, `pruned` or `recovered` checkpoint on a task. `publish`
    and `report` take its figures under the same name."""
    return f"tasks:{which}:{task}"


def prompt_files(prompts: Prompts, field: str, pins: Pins) -> tuple[PinnedFile, ...]:
    """The files of the prompts at a field of the spec, if they are a text."""
    return pins.of(f"{field}.source").files if isinstance(prompts, PromptText) else ()


def _named(evaluation: Evaluation) -> Evaluation:
    """The evaluation with every text's name filled in, because stage keys leave out sources."""
    texts = tuple(text.model_copy(update={"name": text.label}) for text in evaluation.perplexity)
    return Evaluation(perplexity=texts)
