"""The stage that measures a target with the dense and with the final model."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.artifacts.refs import ExportRef, ServingRef
from pipeline.checkpoint.export import export_checkpoint
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.dag.stages.serving import MeasureServing
from pipeline.spec.targets import SecateurSparse, Vllm
from workers.context import Made, Progress, StageContext, Steps
from workers.environment import environment
from workers.stages.open_target import gpus_for, python_for
from workers.targets.consumer import Opening
from workers.targets.measuring import Timed, Which, serving_of, timed_rounds

MODELS: tuple[Literal["dense", "final"], ...] = ("dense", "final")


def run(stage: MeasureServing, context: StageContext) -> Steps:
    """Open all models in turn, round by round. Raises TargetFailed."""
    target = stage.target
    threads = target.threads or context.order.request.resources.of("evaluation").cpus_per_worker
    with tempfile.TemporaryDirectory(prefix="secateur-serving-") as name:
        openings: dict[Which, Opening] = {
            which: Opening(
                kind=target.kind,
                directory=str(_model(context, which, Path(name), whole=not target.reads_exports)),
                exported=_export(context, which, Path(name)) if target.reads_exports else None,
                threads=threads,
                length=target.length,
                gpus=gpus_for(context, target.tensor_parallel) if isinstance(target, Vllm) else 0,
                values=target.values if isinstance(target, SecateurSparse) else None,
            )
            for which in MODELS
        }
        if isinstance(target, SecateurSparse):
            openings["dense_kernels"] = replace(openings["final"], kernels="dense")
        rounds: list[tuple[Which, Timed]] = []
        for timed in timed_rounds(openings, target, python=python_for(context, target.kind)):
            rounds.append(timed)
            yield Progress(len(rounds), target.rounds * len(openings))
        known = environment(threads=threads)
        machine = ", ".join([known.cpu_model, *known.gpus])
        serving = serving_of(openings, target, rounds, machine=machine)
    yield Made({"serving": ServingRef.made(context.content, serving)})


def _model(context: StageContext, which: Which, root: Path, *, whole: bool) -> Path:
    """The checkpoint; or its config alone, for a target that reads files of its own."""
    directory = root / which
    directory.mkdir()
    if whole:
        export_checkpoint(context.content, context.checkpoint(which), directory)
    else:
        (directory / CONFIG_JSON).write_bytes(context.read(which, CONFIG_JSON))
    return directory


def _export(context: StageContext, which: Which, root: Path) -> str:
    artifact = context.inputs[f"{which}_export"]
    assert isinstance(artifact, ExportRef)
    directory = root / f"{which}_export"
    for file in artifact.files:
        path = directory / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as written:
            written.writelines(context.content.stream(file.blob))
    return str(directory)
