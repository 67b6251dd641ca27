"""The part of a DAG that writes a result for its targets, opens it there, and measures it."""

from collections.abc import Iterator

from pipeline.dag.nodes import Input, Node
from pipeline.dag.stages.serving import ExportTarget, MeasureServing, OpenTarget
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.targets import SecateurSparse, Target, Vllm


def export_nodes(spec: PruneSpec, *, dense: Input, final: Input) -> Iterator[Node]:
    """Write both models for each target that reads files of its own."""
    for target in spec.target:
        if target.reads_exports:
            for which, checkpoint in (("dense", dense), ("final", final)):
                yield Node(
                    id=_export(which, target),
                    stage=ExportTarget(target=target.kind),
                    inputs={"checkpoint": checkpoint},
                )


def exports(spec: PruneSpec) -> dict[str, Input]:
    """The final model in every form, by the names that `publish` knows."""
    return {
        f"export:{target.kind}": Input(node=_export("final", target), artifact="export")
        for target in spec.target
        if target.reads_exports
    }


def open_nodes(spec: PruneSpec, published: Input) -> Iterator[Node]:
    """Open what is published in each target."""
    for target in spec.target:
        ranks = target.tensor_parallel if isinstance(target, Vllm) else 1
        values = target.values if isinstance(target, SecateurSparse) else None
        stage = OpenTarget(target=target.kind, tensor_parallel=ranks, values=values)
        yield Node(id=f"open:{target.kind}", stage=stage, inputs={"published": published})


def checks(spec: PruneSpec) -> dict[str, Input]:
    """What the targets found, by the names that `verify` knows."""
    return {
        f"target:{target.kind}": Input(node=f"open:{target.kind}", artifact="check") for target in spec.target
    }


def measure_nodes(spec: PruneSpec, *, dense: Input, final: Input) -> Iterator[Node]:
    """Measure each target, after it has opened the result."""
    for target in spec.target:
        inputs = {"dense": dense, "final": final, "check": checks(spec)[f"target:{target.kind}"]}
        if target.reads_exports:
            inputs |= {
                f"{which}_export": Input(node=_export(which, target), artifact="export")
                for which in ("dense", "final")
            }
        compares = isinstance(target, SecateurSparse) and target.llama_cpp
        stage = MeasureServing(target=target, perplexity=spec.evaluation.perplexity if compares else ())
        yield Node(id=f"measure_serving:{target.kind}", stage=stage, inputs=inputs)


def measured(spec: PruneSpec) -> dict[str, Input]:
    """The figures of the targets, by the names that `report` knows."""
    return {
        f"serving:{target.kind}": Input(node=f"measure_serving:{target.kind}", artifact="serving")
        for target in spec.target
    }


def _export(which: str, target: Target) -> str:
    return f"export:{which}:{target.kind}"
