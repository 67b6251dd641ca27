"""The stage that writes a quantized form, and reads it back from what was written."""

import tempfile
from collections.abc import Callable, Generator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.quantized import QuantizedRef, QuantizedWeights
from pipeline.artifacts.refs import ArtifactRef, KeepRef
from pipeline.checkpoint.compressed import CompressedForm, Packer, write_compressed
from pipeline.checkpoint.export import export_checkpoint
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.checkpoint.read_back import ReadBack, read_back
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.dag.stages.quantizing import Quantize
from pipeline.masks.certify import certify
from pipeline.spec.quantization import Gguf
from workers.context import Made, Progress, StageContext, Step, Steps
from workers.memory import peak_memory_bytes, reset_peak_memory

GGUF_FILE = "model.gguf"

Result = TypeVar("Result")
Read = Callable[[str], Tensor]  # the checkpoint's name of a weight → what the form gives for it, float32
Written = tuple[Sequence[FileRef], Read]


def run(stage: Quantize, context: StageContext) -> Steps:
    """Write a form and read it back, with one block in memory. Raises ZerosLost for a weight that is zero
    before and not in the form, InvalidSpec for a model that the format cannot describe."""
    reset_peak_memory()
    content, final, form = context.content, context.checkpoint(), stage.form
    blocks = len(prunable_weights(content, final))
    with tempfile.TemporaryDirectory(prefix="secateur-quantize-") as name:
        if isinstance(form, Gguf):
            files, read = _gguf(form, context, Path(name))
        else:
            files, read = yield from _compressed(form, context, blocks=blocks)
        yield Progress(blocks, 2 * blocks, "reads back")
        reading = read_back(content, final, read, where=form.name)
        found = yield from _told(reading, after=blocks, total=2 * blocks)
    made = QuantizedRef.made(
        content, _facts(stage, context, found, files), *_certificates(context, found), files=files
    )
    artifacts: dict[str, ArtifactRef] = {"quantized": made, "checkpoint": found.checkpoint}
    yield Made(artifacts, peak_memory_bytes=peak_memory_bytes())


def _compressed(
    form: CompressedForm, context: StageContext, *, blocks: int
) -> Generator[Step, None, Written]:
    """The checkpoint in the format compressed-tensors, which is read back from storage."""
    content, final = context.content, context.checkpoint()
    rounded = context.checkpoint("rounded") if "rounded" in context.inputs else final
    written = yield from _told(write_compressed(content, final, rounded, form), after=0, total=2 * blocks)
    packer, reader = Packer(form), CheckpointReader(content, written)
    return written.model_files, lambda name: packer.unpacked(reader, name)


def _gguf(form: Gguf, context: StageContext, scratch: Path) -> Written:
    """A GGUF file, which is read back from the disk on which it was written."""
    from workers.targets.gguf_file import write_gguf
    from workers.targets.gguf_reading import GgufMatrices

    directory, path = scratch / "model", scratch / GGUF_FILE
    directory.mkdir()
    export_checkpoint(context.content, context.checkpoint(), directory)
    write_gguf(directory, path, matrices=form.weights)
    file = FileRef(path=GGUF_FILE, blob=context.content.put_file(path))
    return [file], GgufMatrices(path, directory).matrix


def _certificates(context: StageContext, found: ReadBack) -> list[Certificate]:
    """The certificate of the weights that were read back; none where no weight must be zero."""
    keep = context.inputs.get("keep")
    if not isinstance(keep, KeepRef):
        return []
    tensors, check = certify(context.content, found.checkpoint, keep, at="quantized")
    return [Certificate(tensors=tensors, checks=(check,))]


def _facts(
    stage: Quantize, context: StageContext, found: ReadBack, files: Sequence[FileRef]
) -> QuantizedWeights:
    library = stage.form.file_format
    return QuantizedWeights(
        name=stage.form.name,
        form=stage.form,
        library=f"{library} {version(library)}",
        matrices=found.matrices,
        weights=found.weights,
        held=found.held,
        zeros=found.zeros,
        error=found.error,
        bytes=sum(file.blob.size for file in files),
        ordinary_bytes=sum(file.blob.size for file in context.checkpoint().model_files),
    )


def _told(work: Generator[int, None, Result], *, after: int, total: int) -> Generator[Step, None, Result]:
    """Carry on work that counts its blocks, and report them."""
    while True:
        try:
            done = next(work)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield Progress(after + done, total)
