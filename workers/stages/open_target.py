"""The stage that opens published files in a target, and compares its answers with those of transformers."""

import json
import tempfile
from pathlib import Path

from pipeline.artifacts.refs import PublishedRef, TargetCheckRef
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.dag.stages.serving import OpenTarget
from pipeline.verification.fetching import fetched
from workers.context import Made, Progress, StageContext, Steps
from workers.targets.agreement import POSITIONS, check_target
from workers.targets.consumer import Opening

CHECKS = 2


def run(stage: OpenTarget, context: StageContext) -> Steps:
    """Fetch the model and its export from storage, and check them. Raises VerificationFailed for a file that
    is not the one that was published, and TargetFailed."""
    published = context.inputs["published"]
    assert isinstance(published, PublishedRef)
    folder = f"{stage.target}/"
    with tempfile.TemporaryDirectory(prefix="secateur-open-") as name:
        directory = Path(name)
        for _ in fetched(context.content, published, directory, wanted=("", folder)):
            pass
        yield Progress(1, CHECKS, "fetched")
        exported = directory / folder
        opening = Opening(
            kind=stage.target,
            directory=str(directory),
            exported=str(exported) if exported.is_dir() else None,
            threads=context.order.request.resources.of("evaluation").cpus_per_worker,
            length=min(POSITIONS, _positions(directory)),
            gpus=gpus_for(context, stage.tensor_parallel) if stage.target == "vllm" else 0,
            exact=True,
            values=stage.values,
        )
        check = check_target(opening, stage.target, python=python_for(context, stage.target))
        yield Progress(2, CHECKS, f"{check.compared} log-probabilities agree")
    yield Made({"check": TargetCheckRef.made(context.content, check)})


def gpus_for(context: StageContext, asked: int) -> int:
    """The GPUs that a target may use: as many as it shares a model among, if the job's workers have them."""
    return min(asked, int(context.order.request.resources.of("evaluation").gpus_per_worker))


def python_for(context: StageContext, target: str) -> str:
    """The interpreter that has a target; empty for this one."""
    return context.settings.vllm_python if target == "vllm" else ""


def _positions(directory: Path) -> int:
    config = json.loads((directory / CONFIG_JSON).read_bytes())
    found = config.get("max_position_embeddings") or config.get("n_positions")
    return found if isinstance(found, int) else POSITIONS
