"""Stored masks become keep tensors, and keep tensors are published as one file of masks."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.mask_overlap import LinearOverlap, MaskOverlaps
from pipeline.artifacts.refs import MASKS_PATH, CheckpointRef, EvaluationRef, KeepRef, PlanRef, PublishedRef
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.canonical import canonical_json
from pipeline.checkpoint.keeps import load_keep, put_keep
from pipeline.dag.stages.results import Publish
from pipeline.errors import CorruptObject, InvalidSpec
from pipeline.job.ledger import WorkOrder
from pipeline.masks.apply import Applied, apply_masks
from pipeline.masks.file import MaskFile, put_masks
from pipeline.masks.overlap import agreement
from pipeline.masks.published import check_masks
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.model import model_pin
from pipeline.resolve.resolve import resolve
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.storage import LocalStore
from tests.checkpoints import imported
from tests.models import tiny_text
from tests.pipeline.masks.made_masks import Made, made_masks
from tests.workers.stage_runs import StageRuns, stage_runs
from workers.context import StageContext
from workers.settings import WorkerSettings
from workers.stages import publish

PRIOR = "spec.prune.method.prior.source"


def learning(root: Path, model: Path, masks: Path, *, keep: int = 2, group: int = 4) -> StageRuns:
    """A job that learns masks from stored ones, as far as to the latter."""
    text = {"source": f"file:{tiny_text(root)}", "sequence_length": 32}
    method = {
        "kind": "maskllm",
        "prior": {"kind": "stored", "source": f"file:{masks}"},
        "training": {"text": text, "steps": 200, "global_batch_size": 1},
    }
    prune = {"method": method, "pattern": {"kind": "nm", "keep": keep, "group": group}}
    return stage_runs(root, model=model, prune=prune).run("import_model", "allocate")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_stored_masks_are_the_keep_tensors_that_they_were(kind: str, tmp_path: Path) -> None:
    made = made_masks(kind, tmp_path)
    runs = learning(tmp_path, made.model, made.file).run("import_keep")
    keep = runs.made["import_keep"]["keep"]
    assert isinstance(keep, KeepRef)
    content = runs.settings.content()
    stored = load_keep(content, made.checkpoint, keep)
    assert stored.keys() == made.keeps.keys()
    for name, matrix in made.keeps.items():
        assert stored[name].equal(matrix.t() if kind == "gpt2" else matrix)
    table = SparsityTable.model_validate_json(runs.file("import_keep", "keep", "sparsity.json"))
    assert table.sparsity == 0.5
    assert [linear.pruned for linear in table.linears] == [one.numel() // 2 for one in made.keeps.values()]


def test_zeros_are_counted_as_if_the_masks_were_applied(tmp_path: Path) -> None:
    made = made_masks("llama", tmp_path)
    *_, done = apply_masks(made.model, made.file, tmp_path / "pruned")
    assert isinstance(done, Applied)
    other = made_masks("llama", tmp_path / "other", seed=1)
    runs = learning(tmp_path, tmp_path / "pruned", other.file).run("import_keep")
    table = SparsityTable.model_validate_json(runs.file("import_keep", "keep", "sparsity.json"))
    both = [int((made.keeps[name] & other.keeps[name]).sum()) for name in made.keeps]
    assert [linear.weights - linear.zeros for linear in table.linears] == both


def test_bits_that_keep_two_of_four_serve_too(tmp_path: Path) -> None:
    made = made_masks("gpt2", tmp_path, nm=(2, 4))
    plain = put_masks(made.content, made.checkpoint, made.keep)
    made.file.write_bytes(made.content.get_bytes(plain.blob))
    runs = learning(tmp_path, made.model, made.file).run("import_keep")
    keep = runs.made["import_keep"]["keep"]
    assert isinstance(keep, KeepRef)
    found = agreement(
        runs.settings.content(), made.checkpoint, keep, keep, other="itself", patterns=made.patterns
    )
    assert found.linears[0] == LinearOverlap(block=0, linear=found.linears[0].linear, groups=1, kept=1)


def refused(runs: StageRuns) -> str:
    with pytest.raises(InvalidSpec) as caught:
        runs.run("import_keep")
    assert caught.value.param == PRIOR
    return caught.value.message


def test_masks_that_cannot_be_begun_with_are_refused(tmp_path: Path) -> None:
    made = made_masks("llama", tmp_path)
    other = made_masks("llama", tmp_path / "four", nm=(4, 8))
    said = refused(learning(tmp_path, made.model, other.file))
    assert "in row 0 of model.layers.0.self_attn.q_proj.weight" in said
    assert "block 0 is planned as NM(2,4); use masks of that pattern, or set spec.prune.pattern" in said
    opt = made_masks("opt", tmp_path / "opt")
    assert "no mask for model.layers.0" in refused(learning(tmp_path, made.model, opt.file))
    weights = made.model / "model.safetensors"
    assert "holds no masks; name masks/masks.safetensors" in refused(learning(tmp_path, made.model, weights))
    data = bytearray(made.file.read_bytes())
    data[-1] ^= 1
    made.file.write_bytes(data)
    assert "damaged in the mask of" in refused(learning(tmp_path, made.model, made.file))


def test_masks_beside_those_of_another_pattern(tmp_path: Path) -> None:
    """Named masks may be of any pattern; groups are those of the job's."""
    made = made_masks("gpt2", tmp_path)
    other = made_masks("gpt2", tmp_path / "other", nm=(4, 8), seed=1)
    runs = comparing(tmp_path, made, other.file)
    theirs = load_keep(runs.settings.content(), made.checkpoint, keep_of(runs, "import_keep:0"))
    ours = load_keep(runs.settings.content(), made.checkpoint, keep_of(runs, "prune"))
    (found,) = MaskOverlaps.model_validate_json(
        runs.file("compare_masks", "agreements", "agreement.json")
    ).agreements
    assert found.other == "code"
    for one, keep, beside in zip(found.linears, ours.values(), theirs.values(), strict=True):
        same = (keep.t().reshape(-1, 4) == beside.t().reshape(-1, 4)).all(dim=1)
        assert one.groups == pytest.approx(float(same.float().mean()))
        assert one.kept == pytest.approx(float((keep & beside).sum() / keep.sum()))
    assert 0 < min(one.groups for one in found.linears) < 1


def test_masks_of_another_model_cannot_be_compared(tmp_path: Path) -> None:
    made = made_masks("llama", tmp_path)
    opt = made_masks("opt", tmp_path / "opt")
    with pytest.raises(InvalidSpec, match=r"no mask for model\.layers\.0") as caught:
        comparing(tmp_path, made, opt.file)
    assert caught.value.param == "spec.prune.compare_with.0.source"


def comparing(root: Path, made: Made, masks: Path) -> StageRuns:
    """A job whose own masks, made already, are compared with stored ones."""
    prune = {
        "method": {"kind": "magnitude"},
        "pattern": {"kind": "nm", "keep": 2, "group": 4},
        "compare_with": [{"name": "code", "source": f"file:{masks}"}],
    }
    runs = stage_runs(root, model=made.model, prune=prune).run("import_model", "allocate", "import_keep:0")
    ours = load_keep(made.content, made.checkpoint, made.keep)
    checkpoint = runs.made["import_model"]["checkpoint"]
    assert isinstance(checkpoint, CheckpointRef)
    runs.made["prune"] = {"keep": put_keep(runs.settings.content(), checkpoint, ours)}
    return runs.run("compare_masks")


def keep_of(runs: StageRuns, node: str) -> KeepRef:
    keep = runs.made[node]["keep"]
    assert isinstance(keep, KeepRef)
    return keep


def published(kind: str, place: Path, *, recovery: dict[str, Any] | None = None) -> tuple[Made, Path]:
    """What `publish` makes of a masked checkpoint, as a directory."""
    made = made_masks(kind, place)
    *_, done = apply_masks(made.model, made.file, place / "pruned")
    assert isinstance(done, Applied)
    content, checkpoint = imported(place / "pruned", place / "store")
    spec: dict[str, Any] = {
        "model": {"source": f"file:{made.model}"},
        "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}},
    }
    if recovery is not None:
        text = {"source": f"file:{tiny_text(place)}", "sequence_length": 32}
        spec["recovery"] = {"text": text, "steps": 200, "global_batch_size": 1, **recovery}
        spec["prune"]["pattern"] = {"kind": "unstructured", "sparsity": 0.5}
    request = JobRequest.model_validate({"spec": spec})
    plan = content.put_bytes(canonical_json(SparsityPlan(asked=0.5, blocks=tuple(made.patterns))))
    settings = WorkerSettings.model_validate({"storage_url": f"file://{place}/store"})
    stage = Publish(model_name="tiny", spec=request.spec)
    pins = resolve(request.spec, SourceAccess(allowed_roots=(Path("/"),)))
    judged = content.put_bytes(canonical_json(EvaluationResult(checkpoint_digest="0" * 64)))
    inputs = {
        "checkpoint": checkpoint,
        "dense": EvaluationRef(files=(FileRef(path="evaluation.json", blob=judged),)),
        "keep": made.keep,
        "plan": PlanRef(files=(FileRef(path="plan.json", blob=plan),)),
        **({} if recovery is not None else {"unpruned": made.checkpoint}),
    }
    context = StageContext(
        node="publish",
        key="0" * 64,
        order=WorkOrder(job="job-x", attempt=1, request=request, pins=pins),
        inputs=inputs,
        earlier=(),
        settings=settings,
    )
    *_, result = publish.run(stage, context)
    written = result.artifacts["published"]
    assert isinstance(written, PublishedRef)
    directory = place / "published"
    for file in written.files:
        (directory / file.path).parent.mkdir(parents=True, exist_ok=True)
        (directory / file.path).write_bytes(b"".join(content.store.get(f"{written.prefix}/{file.path}")))
    return made, directory


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_masks_are_published_and_make_the_same_checkpoint(kind: str, tmp_path: Path) -> None:
    made, directory = published(kind, tmp_path)
    assert [path.name for path in directory.glob("*.safetensors")] == ["model.safetensors"]  # vLLM globs so
    assert (directory / MASKS_PATH).read_bytes() == made.file.read_bytes()
    assert MASKS_PATH in (directory / "README.md").read_text()
    certificate = json.loads((directory / "certificate.json").read_text())
    entries = MaskFile(directory / MASKS_PATH).entries
    assert {one["tensor"]: one["keep_sha256"] for one in certificate["tensors"]} == {
        name: entry.keep_sha256 for name, entry in entries.items()
    }

    *_, done = apply_masks(made.model, directory, tmp_path / "again")
    assert isinstance(done, Applied)
    assert (done.others, done.unknown) == ((), 0)
    ours, theirs = (load_file(one / "model.safetensors") for one in (tmp_path / "again", directory))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_published_masks_that_are_others_are_noticed(tmp_path: Path) -> None:
    made, directory = published("llama", tmp_path)
    certificate = Certificate.model_validate_json((directory / "certificate.json").read_bytes())
    digest = hashlib.sha256(made.file.read_bytes()).hexdigest()
    store = LocalStore(tmp_path)
    check_masks(store, "published", digest, certificate.tensors)
    other = certificate.tensors[3].model_copy(update={"keep_sha256": "0" * 64})
    with pytest.raises(CorruptObject, match=f"another mask of {other.tensor} than"):
        check_masks(store, "published", digest, [*certificate.tensors[:3], other])
    unknown = other.model_copy(update={"tensor": "more.weight"})
    with pytest.raises(CorruptObject, match=r"cannot be read: 'more.weight'"):
        check_masks(store, "published", digest, [unknown])
    with pytest.raises(CorruptObject, match="was published with SHA-256"):
        check_masks(store, "published", "0" * 64, certificate.tensors)


def test_a_published_checkpoint_is_a_source_as_any_other(tmp_path: Path) -> None:
    _, directory = published("llama", tmp_path)
    pin = model_pin(open_source(f"file:{directory}", SourceAccess(allowed_roots=(tmp_path,))))
    assert not [file.path for file in pin.files if "mask" in file.path]
    _, checkpoint = imported(directory, tmp_path / "elsewhere")
    assert not [file.path for file in checkpoint.files if "mask" in file.path]
    runs = learning(tmp_path, directory, directory / MASKS_PATH).run("import_keep")
    keep = runs.made["import_keep"]["keep"]
    assert isinstance(keep, KeepRef)
    assert keep.size > 0


def test_masks_whose_zeros_moved_are_bits_of_no_known_weights(tmp_path: Path) -> None:
    made, directory = published("llama", tmp_path, recovery={"keep": {"kind": "dynamic"}})
    file = MaskFile(directory / MASKS_PATH)
    assert {(one.packing, one.nm, one.dense_sha256) for one in file.entries.values()} == {
        ("bits", None, None)
    }
    assert all(file.matrix(name).equal(keep) for name, keep in made.keeps.items())
