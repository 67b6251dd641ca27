"""The stage that measures a target with the dense and with the final model."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.artifacts.refs import ExportRef, ServingRef
from pipeline.checkpoint.export import export_checkpoint
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.dag.stages.serving import MeasureServing
from pipeline.spec.targets import GgufType, SecateurSparse, Vllm
from workers.context import Made, Progress, StageContext, Steps
from workers.environment import environment
from workers.stages.open_target import gpus_for, python_for
from workers.targets.consumer import Opening
from workers.targets.llama_cpp import FILE
from workers.targets.measuring import Timed, Which, serving_of, text_perplexities, timed_rounds

if TYPE_CHECKING:
    from pipeline.text.windows import Windows

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
            openings |= _in_llama_cpp(openings["dense"], target.llama_cpp, Path(name))
        scored = [which for which in openings if which != "dense_kernels"] if stage.perplexity else []
        python, units = python_for(context, target.kind), target.rounds * len(openings) + len(scored)
        rounds: list[tuple[Which, Timed]] = []
        for timed in timed_rounds(openings, target, python=python):
            rounds.append(timed)
            yield Progress(len(rounds), units)
        texts = _windows(stage, context)
        perplexities: dict[Which, Mapping[str, float]] = {}
        for which in scored:
            perplexities[which] = text_perplexities(openings[which], texts, python=python)
            yield Progress(len(rounds) + len(perplexities), units, "perplexity")
        known = environment(threads=threads)
        machine = ", ".join([known.cpu_model, *known.gpus])
        serving = serving_of(openings, target, rounds, machine=machine, perplexities=perplexities)
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


def _in_llama_cpp(dense: Opening, types: tuple[GgufType, ...], root: Path) -> dict[Which, Opening]:
    """The dense model as GGUF files of these types."""
    if not types:
        return {}
    from workers.targets.gguf_file import write_gguf
    from workers.targets.gguf_types import write_as

    plain = root / "plain.gguf"
    write_gguf(Path(dense.directory), plain)
    found: dict[Which, Opening] = {}
    for kind in types:
        directory = root / kind
        directory.mkdir()
        write_as(plain, directory / FILE, kind)
        found[kind] = replace(dense, kind="llama.cpp", exported=str(directory), values=None)
    plain.unlink()
    return found


def _windows(stage: MeasureServing, context: StageContext) -> "list[Windows]":
    """The texts as tokens, which are those of both models."""
    if not stage.perplexity:
        return []
    from workers.stages.evaluate import cut_windows  # with torch, which other targets do without

    return cut_windows(stage.perplexity, context.checkpoint("dense"), context)


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
