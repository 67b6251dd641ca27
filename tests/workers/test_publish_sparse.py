"""`publish.sparse` writes the packed weights beside the ordinary ones, and `verify` compares both."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import secateur.sparse
from pipeline.artifacts.refs import CheckpointRef
from pipeline.dag.stages.results import Publish
from pipeline.errors import InvalidSpec, VerificationFailed
from pipeline.request.spec_files import checked
from pipeline.spec.publishing import PackedValues, Publishing
from secateur.sparse.directories import unpack_directory
from tests.checkpoints import imported
from tests.models import tiny_checkpoint
from tests.workers.planted import Plant
from tests.workers.verified_jobs import FinishedJob, finished_job
from workers.context import Note, StageContext
from workers.settings import WorkerSettings
from workers.stages.publish_sparse import sparse_files

pytestmark = pytest.mark.usefixtures("opened_here", "sparse_anywhere")

PRUNE = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.7}}
SHARD = "sparse/model-00002-of-00005.safetensors"
UP = "model.layers.0.mlp.up_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


def job(root: Path, values: str, *, dtype: str = "float32") -> FinishedJob:
    return finished_job(root, "llama", checkpoint={"dtype": dtype}, prune=PRUNE, publish={"sparse": values})


@pytest.fixture(scope="module", params=["float32", "int8"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """Jobs whose packed weights are lossless, and rounded."""
    return job(tmp_path_factory.mktemp("packed"), request.param)


def values_of(finished: FinishedJob) -> str:
    asked = finished.order.request.spec.publish
    assert asked is not None
    return asked.sparse


def test_packed_weights_are_published_and_verified(finished: FinishedJob, tmp_path: Path) -> None:
    packed = json.loads((finished.directory / "verification.json").read_bytes())["packed"]
    assert packed["matrices"] == 28
    assert packed["lossless"] is (values_of(finished) == "float32")
    assert packed["bytes"] < packed["ordinary_bytes"]
    manifest = json.loads((finished.directory / "manifest.json").read_bytes())
    listed = {file["path"] for file in manifest["files"]}
    assert {
        SHARD,
        "sparse/config.json",
        "sparse/tokenizer.json",
        "sparse/model.safetensors.index.json",
    } <= listed
    ids = torch.arange(5, 25)[None]
    for directory in (finished.directory, finished.directory / "sparse"):
        model = secateur.sparse.load(directory)
        assert len(model.sparse_report.sparse) == 28
        assert bool(torch.isfinite(model(input_ids=ids).logits).all())
    lossy = values_of(finished) == "int8"
    unpack_directory(finished.directory, tmp_path / "ordinary", lossy=lossy)
    if not lossy:
        for path in (tmp_path / "ordinary").iterdir():
            assert path.read_bytes() == (finished.directory / path.name).read_bytes()


def parts(change: Callable[[dict[str, Tensor]], None]) -> Plant:
    """Change the parts of a packed file, and keep its metadata."""

    def plant(directory: Path) -> None:
        with safe_open(directory / SHARD, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(directory / SHARD)
        change(tensors)
        save_file(tensors, directory / SHARD, metadata=metadata)

    return plant


def _one_value(tensors: dict[str, Tensor]) -> None:
    values = tensors[f"{UP}.values"]
    values[3] = values[3] - 3 if values.dtype == torch.int8 else values[3] * 1.5


def _one_bit(tensors: dict[str, Tensor]) -> None:
    """A value that moves to a place where the weight is zero."""
    bits = tensors[f"{UP}.bits"]
    byte = next(i for i, one in enumerate(bits[0].tolist()) if one & 1 and not one & 2)
    bits[0, byte] ^= 3


def _one_lost(tensors: dict[str, Tensor]) -> None:
    tensors[f"{UP}.values"] = tensors[f"{UP}.values"][1:].clone()


def _norm(tensors: dict[str, Tensor]) -> None:
    tensors[NORM][0] = 7.0


def _other_file(directory: Path) -> None:
    """The packed form of another block."""
    (directory / SHARD).write_bytes((directory / SHARD.replace("00002", "00003")).read_bytes())


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (parts(_one_value), rf"tensor {UP} in {SHARD} (is not that|is .* at \[)"),
        (parts(_one_bit), rf"tensor {UP} in {SHARD} (is not that|is .* at \[)"),
        (parts(_one_lost), rf"{SHARD} cannot be read: {UP} in .* bits are set, but there are"),
        (parts(_norm), rf"tensor {NORM} in {SHARD} is not that of the ordinary file to the bit"),
        (_other_file, rf"{SHARD} was not made of the ordinary file beside it"),
    ],
)
def test_planted_faults_are_found(finished: FinishedJob, tmp_path: Path, plant: Plant, said: str) -> None:
    """Their digests are right, as if `publish` had made them."""
    copy = finished.copied(tmp_path)
    plant(copy.directory)
    with pytest.raises(VerificationFailed, match=said):
        copy.listed_anew().verify()
    assert not (copy.directory / "manifest.json").exists()


def test_a_type_that_loses_bits_is_noted_and_what_would_not_be_smaller_is_not_written(
    finished: FinishedJob, tmp_path: Path
) -> None:
    """bfloat16 values of a float32 checkpoint, and a checkpoint without zeros."""
    note, files = packed_by(finished, finished.checkpoint, "bf16")
    assert "bf16 does not hold every weight of this checkpoint to the bit" in note.text
    assert SHARD in files
    model = tiny_checkpoint("llama", tmp_path / "model")
    _, dense = imported(model, finished.root / "storage")
    note, files = packed_by(finished, dense, "float32")
    assert "nothing is written below sparse/: packed with float32 values, 0 matrices" in note.text
    assert files == set()


def packed_by(
    finished: FinishedJob, checkpoint: CheckpointRef, values: PackedValues
) -> tuple[Note, set[str]]:
    """The note of `publish`, and the files that it writes below `sparse/`."""
    spec = finished.order.request.spec.model_copy(update={"publish": Publishing(sparse=values)})
    settings = WorkerSettings.model_validate({"storage_url": f"file://{finished.root}/storage"})
    context = StageContext(
        node="publish",
        key="0" * 64,
        order=finished.order,
        inputs={"checkpoint": checkpoint},
        earlier=(),
        settings=settings,
    )
    steps, notes = sparse_files(Publish(model_name="model", spec=spec), context), []
    while True:
        try:
            notes.append(next(steps))
        except StopIteration as end:
            (note,) = notes
            assert isinstance(note, Note)
            return note, {file.path for file in end.value}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"structure": {"intermediate_size": 64, "criterion": {"kind": "magnitude"}}},
            "this spec makes none",
        ),
        ({"prune": PRUNE, "sweep": {"sparsities": [0.5]}}, "a sweep publishes no model"),
    ],
)
def test_specs_without_zeros_and_sweeps_publish_no_packed_weights(spec: dict[str, object], said: str) -> None:
    with pytest.raises(Exception, match=said) as refused:
        checked({"spec": {"model": {"source": "file:/model"}, "publish": {"sparse": "bf16"}, **spec}})
    assert refused.type.__name__ in (InvalidSpec.__name__, "SpecError")
