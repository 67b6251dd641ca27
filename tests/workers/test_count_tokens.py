"""A corpus is counted by several processes as by one, on a real Ray."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pipeline.artifacts.refs import CountsRef
from pipeline.artifacts.vocabulary import HeldOutDocuments
from pipeline.dag.plan import plan
from pipeline.errors import TextTooShort
from pipeline.job.ledger import WorkOrder
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.resolve import resolve
from tests.models import tiny_checkpoint, tiny_documents, tiny_text
from tests.workers.stage_runs import StageRuns, of_kind
from workers.context import Progress
from workers.settings import WorkerSettings
from workers.stages import count_tokens

FILES = (CountsRef.TOKENS, *CountsRef.content)


pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("counted")
    tiny_checkpoint("llama", root / "model")
    tiny_text(root, documents=tiny_documents(count=48, words=160))
    return root


def counted(place: Path, store: Path, **vocabulary: object) -> StageRuns:
    """The stage, by itself, into a store of its own."""
    settings = WorkerSettings.model_validate({"storage_url": f"file://{store}", "allowed_roots": (place,)})
    asked = {"size": 300, "texts": [{"source": f"file:{place}/text.txt"}]} | vocabulary
    request = JobRequest.model_validate(
        {"spec": {"model": {"source": f"file:{place}/model"}, "structure": {"vocabulary": asked}}}
    )
    pins = resolve(request.spec, settings.access())
    order = WorkOrder(job="job-x", attempt=1, request=request, pins=pins)
    runs = StageRuns(settings=settings, order=order, dag=plan(request.spec, pins))
    runs.run("import_model").said.clear()
    return runs.run("count_tokens")


def test_places_are_those_that_are_free(cluster: None) -> None:
    assert count_tokens._free_places() == 4


def test_shares_come_to_the_same_sums(
    cluster: None, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for places in (1, 3, 7):
        monkeypatch.setattr(count_tokens, "_free_places", lambda places=places: places)
        runs = counted(place, tmp_path / str(places))
        found.append([runs.file("count_tokens", "counts", path) for path in FILES])
        told = [step.done for step in of_kind(runs.said, Progress)]
        assert told == sorted(told)
    assert found[0] == found[1] == found[2]


def test_a_corpus_with_nothing_to_hold_out(cluster: None, place: Path, tmp_path: Path) -> None:
    (place / "short.txt").write_text("apples and trees\n" * 19)
    short = [{"source": f"file:{place}/short.txt"}]
    with pytest.raises(TextTooShort, match="fewer than 20") as refused:
        counted(place, tmp_path, texts=short)
    assert refused.value.param == "spec.structure.vocabulary.held_out"
    runs = counted(place, tmp_path, texts=short, held_out={"source": f"file:{place}/text.txt"})
    assert len(runs.file("count_tokens", "counts", CountsRef.path_of(HeldOutDocuments))) > 1000
