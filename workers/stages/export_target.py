"""The stage that writes a checkpoint in the form that a target reads."""

import tempfile
from pathlib import Path

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import ExportRef
from pipeline.checkpoint.export import export_checkpoint
from pipeline.dag.stages.serving import ExportTarget
from workers.context import Made, Progress, StageContext, Steps
from workers.targets.writing import write_export


def run(stage: ExportTarget, context: StageContext) -> Steps:
    """Write the files and store them. Raises InvalidSpec for a model that the target cannot describe."""
    with tempfile.TemporaryDirectory(prefix="secateur-export-") as name:
        directory, out = Path(name) / "model", Path(name) / "export"
        directory.mkdir()
        out.mkdir()
        export_checkpoint(context.content, context.checkpoint(), directory)
        write_export(stage.target, directory, out)
        paths = sorted(path for path in out.rglob("*") if path.is_file())
        files = []
        for i, path in enumerate(paths):
            blob = context.content.put_file(path)
            files.append(FileRef(path=path.relative_to(out).as_posix(), blob=blob))
            yield Progress(i + 1, len(paths))
    yield Made({"export": ExportRef(files=tuple(files))})
