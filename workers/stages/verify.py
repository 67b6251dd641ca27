"""The stage that opens what was published, and makes it visible by writing its manifest."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipeline.architecture.rows import row_for
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.manifest import Manifest, ManifestEntry
from pipeline.artifacts.refs import (
    AdapterRef,
    KeepRef,
    ManifestRef,
    PublishedRef,
    VerificationRef,
)
from pipeline.artifacts.serving import TargetCheck
from pipeline.artifacts.verification import Opened, Verification
from pipeline.blocks.logits import streamed_logits
from pipeline.canonical import canonical_json
from pipeline.checkpoint.keeps import KeepReader
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import import_library
from pipeline.dag.stages.results import Verify
from pipeline.errors import UnsupportedModel, VerificationFailed
from pipeline.report.quantity import human_bytes
from pipeline.storage.content import ContentStore
from pipeline.tensor.pairs import joined
from pipeline.verification.documents import check_documents
from pipeline.verification.fetching import fetched
from pipeline.verification.logits import compare_logits
from pipeline.verification.weights import CheckedWeights, check_weights
from workers.context import Made, Note, Progress, StageContext, Step, Steps
from workers.memory import peak_memory_bytes
from workers.stages.verify_forms import opened_forms
from workers.verification.answer import LOGITS, OpenedModel, Opening
from workers.verification.packed import check_packed
from workers.verification.process import OpeningProcess

CHECKS = 5
LIBRARIES_BYTES = 3 * 2**29  # what two processes with torch and transformers take beside weights


def run(stage: Verify, context: StageContext) -> Steps:
    """Fetch the files from storage, check their bytes and weights, open them in a fresh process, compare its
    logits with those of the checkpoint, and check the documents.

    Raises VerificationFailed, which names file and field or tensor; then there is no manifest.
    """
    published = context.inputs["published"]
    assert isinstance(published, PublishedRef)
    with tempfile.TemporaryDirectory(prefix="secateur-verify-") as name:
        directory, aside = Path(name) / "published", Path(name) / "aside"
        aside.mkdir()
        with OpeningProcess(aside, threads=torch.get_num_threads()) as process:
            yield from _fetched(context, published, directory)
            weights = _weights(context, directory)
            packed = check_packed(directory, [file.path for file in published.files])
            import_library()  # for the streamed logits, while the process imports the same for itself
            yield Progress(2, CHECKS, "weights")
            opening = _opening(context, weights, directory, aside)
            if opening.weights == "from_disk":
                yield Note(_too_large(context, weights))
            answer = process.open(opening)
        model = answer.model
        yield Progress(3, CHECKS, "opened")
        opened = _opened(context, opening, model)
        yield Progress(4, CHECKS, "logits")
        digests = {file.path: file.blob.digest for file in published.files}
        documents = check_documents(directory, digests, weights.certificates)
        yield Progress(CHECKS, CHECKS, "documents")
        forms = []
        for form in opened_forms(context, directory, aside, process=OpeningProcess):
            yield Progress(CHECKS, CHECKS, form.name)
            forms.append(form)
    verification = Verification(
        files=len(published.files),
        bytes=published.size,
        tensors=weights.tensors,
        values=weights.values,
        zeros=weights.zeros,
        documents=documents,
        opened=opened,
        remarks=_remarks(opened),
        targets=_targets(context),
        packed=packed,
        quantized=tuple(forms),
    )
    peak = peak_memory_bytes() + answer.peak_memory_bytes
    yield _manifest(context.content, published, verification, peak_memory_bytes=peak)


def _fetched(context: StageContext, published: PublishedRef, directory: Path) -> Iterator[Step]:
    """Fetch everything, and compare the model's files with those of the checkpoint."""
    blobs = {file.path: file.blob for file in published.files}
    for file in context.checkpoint().model_files:
        if blobs.get(file.path) != file.blob:
            raise VerificationFailed(
                f"{file.path} in {published.prefix} is not that of the checkpoint that was evaluated"
            )
    for file in fetched(context.content, published, directory):
        yield Progress(0, CHECKS, file.path)
    yield Progress(1, CHECKS, "files")


def _weights(context: StageContext, directory: Path) -> CheckedWeights:
    keep, checkpoint = context.inputs.get("keep"), context.checkpoint()
    try:
        keeps = KeepReader(context.content, checkpoint, keep) if isinstance(keep, KeepRef) else None
    except UnsupportedModel as error:
        raise VerificationFailed(f"config.json has another model_type than before: {error}") from error
    return check_weights(directory, CheckpointReader(context.content, checkpoint).index, keeps)


def _opening(context: StageContext, weights: CheckedWeights, directory: Path, aside: Path) -> Opening:
    adapter = next(directory.rglob(AdapterRef.CONFIG), None)
    fits = weights.bytes + LIBRARIES_BYTES <= _memory(context)
    return Opening(
        directory=directory,
        aside=aside,
        weights="in_memory" if fits else "from_disk",
        threads=torch.get_num_threads(),
        adapter=None if adapter is None else str(adapter.parent.relative_to(directory)),
    )


def _too_large(context: StageContext, weights: CheckedWeights) -> str:
    return (
        f"the weights take {human_bytes(weights.bytes)}, and the declared memory is "
        f"{human_bytes(_memory(context))}: transformers fetches each part from the disk when it is used"
    )


def _memory(context: StageContext) -> int:
    return context.order.request.resources.of("evaluation").memory_bytes


def _opened(context: StageContext, opening: Opening, model: OpenedModel) -> Opened:
    opened_LV = load_file(opening.logits)[LOGITS]
    reader = CheckpointReader(context.content, context.checkpoint())
    prompt_L = torch.tensor(model.prompt)
    if row_for(str(reader.config["model_type"])).decoder is not None:
        prompt_L = joined(prompt_L, prompt_L)  # it was asked to write again what it read
    streamed_LV = streamed_logits(reader, prompt_L, dtype=getattr(torch, model.dtype))
    return Opened(
        version=model.version,
        model_class=model.model_class,
        weights=opening.weights,
        tensors=model.tensors,
        tied=model.tied,
        logits=compare_logits(opened_LV, streamed_LV, dtype=model.dtype),
        generated=model.generated,
        tokenizer=model.tokenizer,
        adapter_tensors=model.adapter_tensors,
    )


def _targets(context: StageContext) -> tuple[TargetCheck, ...]:
    """What the targets found, of the same files."""
    names = sorted(name for name in context.inputs if name.startswith("target:"))
    return tuple(context.load(name, TargetCheck) for name in names)


def _remarks(opened: Opened) -> tuple[str, ...]:
    if opened.tokenizer is None:
        return ("there is no tokenizer beside the model",)
    beyond = opened.tokenizer.beyond_rows
    if not beyond:
        return ()
    return (
        f"special tokens without a row in the embedding: {', '.join(beyond)}; a text with one of them breaks "
        f"the model",
    )


def _manifest(
    content: ContentStore, published: PublishedRef, verification: Verification, *, peak_memory_bytes: int
) -> Made:
    """Write what was checked, and last the manifest: now the directory is published."""
    verified = VerificationRef.made(content, verification)
    (document,) = verified.files
    content.store.put(f"{published.prefix}/{document.path}", content.stream(document.blob))
    files: tuple[FileRef, ...] = tuple(sorted((*published.files, document), key=lambda file: file.path))
    entries = tuple(ManifestEntry(path=f.path, size=f.blob.size, sha256=f.blob.digest) for f in files)
    manifest = Manifest(files=entries)
    made = ManifestRef(files=(*files, ManifestRef.put(content, manifest)), prefix=published.prefix)
    content.store.put(made.key, [canonical_json(manifest)])
    return Made({"manifest": made, "verification": verified}, peak_memory_bytes=peak_memory_bytes)
