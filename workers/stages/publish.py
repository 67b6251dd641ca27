"""An ordinary Hugging Face directory with model card, side file and manifest, written last."""

from pipeline.artifacts import FileRef, Manifest, ManifestEntry, ManifestRef, Outliers, SparsityTable
from pipeline.canonical import canonical_json
from pipeline.checkpoint.index import TENSORS_JSON
from pipeline.comparison import compare_tasks
from pipeline.evaluation import EvaluationResult
from pipeline.ledger import MANIFEST_JSON
from pipeline.model_card import model_card, side_file
from pipeline.plan import SparsityPlan
from pipeline.stages import Publish
from pipeline.storage.content import BlobRef, ContentStore
from workers.environment import versions
from workers.stages.base import Made, Progress, StageContext, Steps
from workers.stages.evaluate_task import read_evaluations


def run(stage: Publish, context: StageContext) -> Steps:
    """Copies the pruned checkpoint out of the content store to `published/<name>-<key>/`."""
    content = context.content
    prefix = f"published/{stage.model_name}-{context.key[:12]}"
    files = [file for file in context.inputs["checkpoint"].files if file.path != TENSORS_JSON]
    written = _written(stage, context)
    files += [FileRef(path=path, blob=content.put_bytes(data)) for path, data in written.items()]
    files.sort(key=lambda file: file.path)
    entries = []
    for i, file in enumerate(files):
        _copy(content, file.blob, f"{prefix}/{file.path}")
        entries.append(ManifestEntry(path=file.path, size=file.blob.size, sha256=file.blob.digest))
        yield Progress(i + 1, len(files))
    manifest = canonical_json(Manifest(files=tuple(entries)))
    blob = content.put_bytes(manifest)
    content.store.put(f"{prefix}/{MANIFEST_JSON}", [manifest])
    artifact = ManifestRef(files=(*files, FileRef(path=MANIFEST_JSON, blob=blob)), prefix=prefix)
    yield Made({"manifest": artifact})


def _copy(content: ContentStore, blob: BlobRef, key: str) -> None:
    """Verified on the way: CorruptObject leaves nothing under `key`."""
    content.store.put(key, content.stream(blob))


def _written(stage: Publish, context: StageContext) -> dict[str, bytes]:
    """Model card and side file. Nothing in them tells when or by which job they were made."""
    content = context.content

    def read(name: str, path: str) -> bytes:
        return content.get_bytes(context.inputs[name].file(path))

    plan = SparsityPlan.model_validate_json(read("plan", "plan.json"))
    sparsity = SparsityTable.model_validate_json(read("keep", "sparsity.json"))
    dense = EvaluationResult.model_validate_json(read("dense", "evaluation.json"))
    pruned = EvaluationResult.model_validate_json(read("pruned", "evaluation.json"))
    outliers = None
    if "outliers" in context.inputs:
        outliers = Outliers.model_validate_json(read("outliers", "outliers.json"))
    asked = stage.spec.evaluation.tasks
    tasks = compare_tasks(
        read_evaluations(context, "dense"),
        read_evaluations(context, "pruned"),
        suite=asked.suite if asked is not None else None,
    )
    card = model_card(
        model_name=stage.model_name,
        spec=stage.spec,
        plan=plan,
        sparsity=sparsity,
        dense=dense,
        pruned=pruned,
        tasks=tasks,
        versions=versions(),
    )
    side = side_file(
        model_name=stage.model_name,
        spec=stage.spec,
        plan=plan,
        sparsity=sparsity,
        outliers=outliers,
        dense=dense,
        pruned=pruned,
        tasks=tasks,
        files={file.path: file.blob.digest for file in context.checkpoint().files},
        versions=versions(),
    )
    return {"README.md": card.encode(), "secateur.json": side.to_json()}
