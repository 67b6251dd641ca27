"""Opens the quantized forms of a published directory, each as its users will do it."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipeline.artifacts.verification import OpenedForm
from pipeline.blocks.logits import streamed_logits
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import VerificationFailed
from pipeline.spec.quantization import QUANTIZED_FOLDER
from pipeline.verification.logits import compare_logits
from workers.context import StageContext
from workers.stages.quantize import GGUF_FILE
from workers.verification.answer import LOGITS, Opening
from workers.verification.process import OpeningProcess

READ_BACK = "read_back:"  # before the name of a form, in the names of inputs


def opened_forms(
    context: StageContext, directory: Path, scratch: Path, *, process: type[OpeningProcess]
) -> Iterator[OpenedForm]:
    """Open every form below `directory` in a fresh `process` with transformers, and compare its logits with
    those of the weights that were read back when it was written. `scratch`: a directory for what it says.

    Raises VerificationFailed, which names the form.
    """
    for name in sorted(context.inputs):
        if name.startswith(READ_BACK):
            form = name.removeprefix(READ_BACK)
            try:
                yield _opened(context, directory / QUANTIZED_FOLDER / form, scratch / form, process)
            except VerificationFailed as error:
                raise VerificationFailed(f"{QUANTIZED_FOLDER}/{form}: {error.message}") from error


def _opened(context: StageContext, directory: Path, aside: Path, process: type[OpeningProcess]) -> OpenedForm:
    form, threads = directory.name, torch.get_num_threads()
    aside.mkdir()
    opening = Opening(
        directory=directory,
        aside=aside,
        weights="in_memory",
        threads=threads,
        gguf=GGUF_FILE if (directory / GGUF_FILE).is_file() else None,
    )
    with process(aside, threads=threads) as running:
        model = running.open(opening).model
    opened_LV = load_file(opening.logits)[LOGITS]
    reader = CheckpointReader(context.content, context.checkpoint(f"{READ_BACK}{form}"))
    streamed_LV = streamed_logits(reader, torch.tensor(model.prompt), dtype=opened_LV.dtype)
    return OpenedForm(
        name=form,
        version=model.version,
        model_class=model.model_class,
        logits=compare_logits(opened_LV, streamed_LV, dtype=model.dtype),
    )
