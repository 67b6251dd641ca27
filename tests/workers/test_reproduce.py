"""A job's work is done again under keys of its own, and the report says where the two first differ."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save

from pipeline.artifacts.artifact import Artifact, FileRef
from pipeline.artifacts.refs import CheckpointRef, KeepRef, ReportRef
from pipeline.artifacts.tensor_index import TensorIndex
from pipeline.errors import SourceNotFound
from pipeline.job.events import StageFinished
from pipeline.job.ledger import JobResult, WorkOrder, job_result_key
from pipeline.job.reproduction import Reproduction
from pipeline.report.sweep import read_any_report
from pipeline.request.prune_spec import JobRequest
from tests.models import tiny_checkpoint, tiny_text
from workers.local.job import order_again, order_for, run_here
from workers.settings import WorkerSettings

pytestmark = pytest.mark.usefixtures("all_opened_here")


class Seen:
    """A reporter that keeps what was reported."""

    revoked = False

    def __init__(self) -> None:
        self.cached: dict[str, bool] = {}

    def emit(self, body: object) -> None:
        if isinstance(body, StageFinished):
            self.cached[body.result.node] = body.result.cached

    def close(self, deadline_seconds: float) -> None:
        pass


class Place:
    """A storage with one finished job."""

    def __init__(self, root: Path) -> None:
        tiny_checkpoint("llama", root / "model")
        text = {"source": f"file:{tiny_text(root)}", "sequence_length": 32}
        spec: dict[str, Any] = {
            "model": {"source": f"file:{root}/model"},
            "calibration": {**text, "samples": 4},
            "prune": {
                "method": {"kind": "wanda"},
                "allocation": {"kind": "owl"},
                "pattern": {"kind": "unstructured", "sparsity": 0.5},
            },
            "evaluation": {"perplexity": [{**text, "windows": 2}]},
        }
        self.settings = WorkerSettings(storage_url=f"file://{root}/store", allowed_roots=(root,))
        self.content = self.settings.content()
        self.order = order_for(JobRequest.model_validate({"spec": spec}), self.settings)
        self.first = run_here(self.order, self.settings, Seen())

    def again(self, order: WorkOrder | None = None) -> tuple[Reproduction, str, Seen]:
        """The verdict of another run, its sentence in the summary, and what the run reported."""
        seen = Seen()
        order = order or order_again(self.order.job, self.settings)
        result = run_here(order, self.settings, seen)
        report = result.artifacts("report")["report"]
        document = read_any_report(self.content.get_bytes(report.file(ReportRef.JSON)))
        assert document.data.reproduction is not None
        assert "Reproduction" in self.content.get_bytes(report.file(ReportRef.PAGE)).decode()
        return document.data.reproduction, document.summary.reproduction or "", seen

    def plant(self, node: str, name: str, path: str, data: bytes) -> None:
        """Have the first job's result say that it made a file with other bytes."""

        def planted(artifact: Artifact) -> Artifact:
            other = FileRef(path=path, blob=self.content.put_bytes(data))
            files = tuple(other if file.path == path else file for file in artifact.files)
            return artifact.model_copy(update={"files": files})

        nodes = tuple(
            one.model_copy(update={"artifacts": {**one.artifacts, name: planted(one.artifacts[name])}})
            if one.node == node
            else one
            for one in self.first.nodes
        )
        self.content.put_model(job_result_key(self.order.job), JobResult(nodes=nodes))

    def restore(self) -> None:
        self.content.put_model(job_result_key(self.order.job), self.first)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("reproduce"))


def test_equal_work_is_identical_and_takes_nothing_that_is_stored(place: Place) -> None:
    found, sentence, seen = place.again()
    assert found.identical
    assert found.artifacts >= len(place.first.nodes) - 1
    assert sentence.startswith(f"identical with {place.order.job}")
    assert seen.cached.keys() == {node.node for node in place.first.nodes}
    assert not any(seen.cached.values())


def test_other_jobs_find_nothing_of_it(place: Place) -> None:
    """Its keys are its own, so that a reproduction never becomes what others build on."""
    one, other = (order_again(place.order.job, place.settings) for _ in range(2))
    keys = []
    for order in (one, other):
        result = run_here(order, place.settings, Seen())
        keys.append({node.key for node in result.nodes})
    assert not keys[0] & keys[1]
    assert not keys[0] & {node.key for node in place.first.nodes}


def test_a_planted_difference_is_found_with_its_stage_and_tensor(place: Place) -> None:
    artifact = place.first.artifacts("prune")["checkpoint"]
    assert isinstance(artifact, CheckpointRef)
    name = "model.layers.1.mlp.up_proj.weight"
    path = artifact.load(place.content, TensorIndex).tensors[name].file
    tensors = load(place.content.get_bytes(artifact.file(path)))
    tensors[name][0, 0] += 0.5
    place.plant("prune", "checkpoint", path, save(tensors, metadata={"format": "pt"}))
    try:
        found, sentence, _ = place.again()
    finally:
        place.restore()
    difference = found.difference
    assert difference is not None
    assert (difference.node, difference.artifact, difference.file) == ("prune", "checkpoint", path)
    assert difference.tensor == name
    assert difference.largest == pytest.approx(0.5)
    assert "1 of" in difference.detail
    assert sentence.startswith(f"differs from {place.order.job}, first at prune/checkpoint")
    assert name in sentence


def test_another_seed_shows_at_the_first_stage_that_takes_it(place: Place) -> None:
    order = order_again(place.order.job, place.settings)
    spec = order.request.spec
    assert spec.calibration is not None
    calibration = spec.calibration.model_copy(update={"seed": 99})
    request = order.request.model_copy(update={"spec": spec.model_copy(update={"calibration": calibration})})
    found, _, _ = place.again(order.model_copy(update={"request": request}))
    assert found.difference is not None
    assert (found.difference.node, found.difference.tensor) == ("calibrate", "tokens")


def test_a_field_of_a_document_is_named(place: Place) -> None:
    artifact = place.first.artifacts("evaluate:dense")["evaluation"]
    (file,) = artifact.files
    data = place.content.get_bytes(file.blob).replace(b'"windows":2', b'"windows":3')
    place.plant("evaluate:dense", "evaluation", file.path, data)
    try:
        found, _, _ = place.again()
    finally:
        place.restore()
    assert found.difference is not None
    assert found.difference.node == "evaluate:dense"
    assert "windows is 3, then 2" in found.difference.detail


def test_masks_are_compared_too(place: Place) -> None:
    keep = place.first.artifacts("prune")["keep"]
    assert isinstance(keep, KeepRef)
    path = next(file.path for file in keep.files if file.path.endswith(".safetensors"))
    tensors = load(place.content.get_bytes(keep.file(path)))
    name = next(iter(tensors))
    tensors[name].view(-1)[0] ^= 1
    place.plant("prune", "keep", path, save(tensors))
    try:
        found, _, _ = place.again()
    finally:
        place.restore()
    assert found.difference is not None
    assert (found.difference.artifact, found.difference.tensor) == ("keep", name)


def test_a_job_that_is_not_there_is_named_beside_those_that_are(place: Place) -> None:
    with pytest.raises(SourceNotFound, match=f"no finished job local-x .*{place.order.job}"):
        order_again("local-x", place.settings)
    assert order_again(None, place.settings).reproduces == place.order.job


def test_nothing_to_reproduce(tmp_path: Path) -> None:
    settings = WorkerSettings(storage_url=f"file://{tmp_path}", allowed_roots=())
    with pytest.raises(SourceNotFound, match="there is none"):
        order_again(None, settings)
