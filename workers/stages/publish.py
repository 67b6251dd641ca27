"""The stage that writes an ordinary Hugging Face directory with model card, side file, certificate and masks.
`verify` opens it, and writes the manifest."""

import json
from collections.abc import Iterator

from pipeline.allocations.measures import Measurements
from pipeline.architecture.rows import row_for
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.refs import (
    AdapterRef,
    ArtifactRef,
    CertificateRef,
    CheckpointRef,
    CutRef,
    KeepRef,
    PublishedRef,
    VocabularyRef,
)
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.artifacts.vocabulary import KeptTokens, VocabularyTable
from pipeline.canonical import canonical_json
from pipeline.checkpoint.language_model import wrapper_of
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.dag.stages.results import Publish
from pipeline.evaluation.task_comparison import compare_tasks
from pipeline.evaluation.task_pairs import paired_tasks
from pipeline.masks.file import put_masks
from pipeline.masks.published import check_masks
from pipeline.report.model_card import SIDE_FILE, adapter_card, model_card
from pipeline.report.published import Published
from pipeline.report.side_file import side_file
from pipeline.report.summary import name_of
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.quantization import QUANTIZED_FOLDER
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.storage.content import BlobRef, ContentStore
from pipeline.storage.slug import slug
from pipeline.structure.cut import Cut
from pipeline.structure.table import SizeTable, sizes_through
from workers.context import Made, Progress, StageContext, Step, Steps
from workers.environment import versions
from workers.stages.evaluate_task import read_judged
from workers.stages.publish_certificate import certified_files, planned_patterns
from workers.stages.publish_sparse import sparse_files

ADAPTER = "adapter"
CUT_DOCUMENTS = {"vocabulary": VocabularyRef.path_of(KeptTokens), "cut": CutRef.path_of(Cut)}  # by input


def run(stage: Publish, context: StageContext) -> Steps:
    """Copy the final checkpoint out of the content store to `published/<slug of its name>-<key>/`, and read
    back the weights that must be zero. Raises ZerosLost before any document says that they are zero."""
    content = context.content
    prefix = f"published/{slug(stage.model_name)}-{context.key[:12]}"
    packed = yield from sparse_files(stage, context)
    beside = [*_adapter(stage, context), *_exports(stage, context), *_forms(stage, context), *packed]
    files = _by_path([*context.checkpoint().model_files, *beside])
    yield from _copied(content, prefix, files, before=0)

    made: dict[str, ArtifactRef] = {}
    certificate = None
    if "certificate" in stage.outputs:
        certificate = certified_files(stage, context, prefix)
    written = _written(stage, context, certificate)
    documents = [FileRef(path=path, blob=content.put_bytes(data)) for path, data in written.items()]
    if certificate is not None:
        masks = _masks(stage, context)
        documents.append(masks)
    yield from _copied(content, prefix, documents, before=len(files))
    if certificate is not None:
        check_masks(content.store, prefix, masks.blob.digest, certificate.tensors)
        made["certificate"] = CertificateRef(
            files=tuple(file for file in documents if file.path == CertificateRef.path_of(Certificate))
        )

    published = PublishedRef(files=tuple(_by_path([*files, *documents])), prefix=prefix)
    yield Made({**made, "published": published})


def _copied(content: ContentStore, prefix: str, files: list[FileRef], *, before: int) -> Iterator[Step]:
    for i, file in enumerate(files):
        _copy(content, file.blob, f"{prefix}/{file.path}")
        yield Progress(before + i + 1, before + len(files))


def _copy(content: ContentStore, blob: BlobRef, key: str) -> None:
    """Copy a blob and verify it on the way. Raises CorruptObject, which leaves nothing under `key`."""
    content.store.put(key, content.stream(blob))


def _adapter(stage: Publish, context: StageContext) -> list[FileRef]:
    """The LoRA matrices as a directory of their own, with the trained model as its base. peft wrote a local
    path there, which must not be published and could not be found."""
    adapter = context.inputs.get("adapter")
    if not isinstance(adapter, AdapterRef):
        return []
    content = context.content
    base = name_of(stage.spec.model.source)
    if "pruned" in context.inputs:
        base = f"checkpoint {_evaluation(context, 'pruned').checkpoint_digest}"
    config = json.loads(content.get_bytes(adapter.file(AdapterRef.CONFIG)))
    config["base_model_name_or_path"] = base
    written = {
        AdapterRef.CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
        "README.md": adapter_card(
            model_name=stage.model_name, base=base, masked="keep" in context.inputs
        ).encode(),
    }
    kept = [file for file in adapter.files if file.path not in written]
    made = [FileRef(path=path, blob=content.put_bytes(data)) for path, data in written.items()]
    return [FileRef(path=f"{ADAPTER}/{file.path}", blob=file.blob) for file in (*kept, *made)]


def _exports(stage: Publish, context: StageContext) -> list[FileRef]:
    """The model in the form of each target, in a directory with the target's name."""
    return [
        FileRef(path=f"{target.kind}/{file.path}", blob=file.blob)
        for target in stage.spec.target
        if target.reads_exports
        for file in context.inputs[f"export:{target.kind}"].files
    ]


def _forms(stage: Publish, context: StageContext) -> list[FileRef]:
    """The quantized forms, each in a directory with its name."""
    return [
        FileRef(path=f"{QUANTIZED_FOLDER}/{form.name}/{file.path}", blob=file.blob)
        for form in stage.spec.quantize
        for file in context.inputs[f"quantize:{form.name}"].files
    ]


def _masks(stage: Publish, context: StageContext) -> FileRef:
    """Store the masks apart from the weights. Their file names the weights they were chosen for, if pruning
    chose them."""
    keep, dense = context.inputs["keep"], context.inputs.get("unpruned")
    assert isinstance(keep, KeepRef)
    assert dense is None or isinstance(dense, CheckpointRef)
    patterns = planned_patterns(stage, context)
    return put_masks(context.content, context.checkpoint(), keep, patterns=patterns, dense=dense)


def _written(stage: Publish, context: StageContext, certificate: Certificate | None) -> dict[str, bytes]:
    """Write model card, side file and certificate. They contain no times and no name of a job."""
    reader = CheckpointReader(context.content, context.checkpoint())
    sizes = sizes_through([context.find(name, SizeTable) for name in ("vocabulary", "cut")])
    vocabulary = context.find("vocabulary", VocabularyTable)
    plan = context.find("plan", SparsityPlan)
    sparsity = context.find("keep", SparsityTable)
    measurements = context.find("measurements", Measurements)
    known = {
        which: _evaluation(context, which)
        for which in ("dense", "pruned", "recovered")
        if which in context.inputs
    }
    asked = stage.spec.evaluation.tasks
    suite = asked.suite if asked is not None else None
    judged = {which: read_judged(context, which) for which in known}
    tasks = compare_tasks(
        **{which: [one.evaluation for one in found] for which, found in judged.items()},
        pairs=paired_tasks(judged["dense"], list(judged.values())[-1], suite=suite),
        suite=suite,
        own_tokenizers=stage.spec.cuts_vocabulary,
    )
    published = Published(
        model_name=stage.model_name,
        spec=stage.spec,
        sizes=sizes,
        vocabulary=vocabulary,
        plan=plan,
        sparsity=sparsity,
        measurements=measurements,
        evaluations=known,
        tasks=tasks,
        certificate=certificate,
        multimodal=wrapper_of(reader.whole_config) is not None,
        versions=versions(training=stage.spec.recovery is not None),
        writes_answers=row_for(context.order.pins.facts.model_type).decoder is not None,
    )
    card = model_card(published, adapter=ADAPTER if "adapter" in context.inputs else None)
    files = {file.path: file.blob.digest for file in context.checkpoint().files}
    side = side_file(published, files=files)
    documents = {"README.md": card.encode(), SIDE_FILE: side.to_json()}
    documents |= {
        path: context.read(name, path) for name, path in CUT_DOCUMENTS.items() if name in context.inputs
    }
    if certificate is not None:
        documents[CertificateRef.path_of(Certificate)] = canonical_json(certificate)
    return documents


def _evaluation(context: StageContext, which: str) -> EvaluationResult:
    return context.load(which, EvaluationResult)


def _by_path(files: list[FileRef]) -> list[FileRef]:
    return sorted(files, key=lambda file: file.path)
