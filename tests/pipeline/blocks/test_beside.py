"""Blocks are read ahead and stored behind, beside the block at work; errors and deaths lose nothing."""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from pipeline.allocations import Uniform
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.activations import Activations
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.measuring import measure_statistics
from pipeline.blocks.pruning import PrunedBlocks, Pruning, prune_blocks
from pipeline.blocks.steps import Note, Progress, run_through
from pipeline.blocks.worker import SweepWorker
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import CorruptObject, StorageError
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import Unstructured
from pipeline.storage import ContentStore, LocalStore, ObjectInfo
from pipeline.storage.base import Chunk
from pipeline.storage.progress import StageProgress
from tests.checkpoints import imported
from tests.models import tiny_checkpoint
from tests.pipeline.blocks.test_activations import made, stored
from tests.pipeline.blocks.test_sweep import samples

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

KEY = "0" * 64
LONG = 60.0  # seconds; a test that fails waits for so long


class Watched:
    """A local store that notes every call; `before` is asked at each, and may wait or raise."""

    def __init__(self, inner: LocalStore) -> None:
        self._inner = inner
        self.calls: list[tuple[str, str, int]] = []
        self.before: Callable[[str, str, int], None] = lambda call, key, start: None

    def put(self, key: str, chunks: Iterable[Chunk]) -> None:
        self._noted("put", key, 0)
        self._inner.put(key, chunks)

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        self._noted("get", key, start)
        return self._inner.get(key, start=start, length=length)

    def stat(self, key: str) -> ObjectInfo | None:
        return self._inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        self._noted("delete", key, 0)
        self._inner.delete(key)

    def _noted(self, call: str, key: str, start: int) -> None:
        self.before(call, key, start)
        self.calls.append((call, key, start))


@pytest.fixture
def model(tmp_path: Path) -> tuple[ContentStore, CheckpointRef, Watched]:
    content, checkpoint = imported(tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "store")
    assert isinstance(content.store, LocalStore)
    watched = Watched(content.store)
    return ContentStore(watched), checkpoint, watched


def worker(content: ContentStore, checkpoint: CheckpointRef) -> SweepWorker:
    started = SweepWorker(content, checkpoint, samples(), dtype=torch.float32, device=torch.device("cpu"))
    started.start()
    return started


def ranges(content: ContentStore, checkpoint: CheckpointRef, block: int) -> set[tuple[str, str, int]]:
    reader = CheckpointReader(content, checkpoint)
    names = [name for name in reader.index.tensors if f"layers.{block}." in name]
    assert names
    places = [reader.place(name) for name in names]
    return {("get", content.key(place.blob), place.entry.start) for place in places}


def test_the_next_block_is_read_while_one_is_at_work(
    model: tuple[ContentStore, CheckpointRef, Watched],
) -> None:
    content, checkpoint, watched = model
    one, wanted = worker(content, checkpoint), ranges(content, checkpoint, 1)
    begun, released = threading.Event(), threading.Event()

    def before(call: str, key: str, start: int) -> None:
        if (call, key, start) in wanted:
            begun.set()
            assert released.wait(LONG)

    watched.before = before
    one.load(0, then=(1, None))
    assert begun.wait(LONG)
    one.advance()  # block 0 is at work, and the reading of block 1 has begun and not ended
    released.set()
    one.load(1)
    assert sorted(call for call in watched.calls if call in wanted) == sorted(wanted)  # once
    expected = CheckpointReader(content, checkpoint)
    for name, tensor in one.work.tensors.items():
        assert torch.equal(tensor, expected.tensor(f"model.layers.1.{name}")), name


def test_each_tensor_is_read_once_and_only_what_comes_next(
    model: tuple[ContentStore, CheckpointRef, Watched],
) -> None:
    content, checkpoint, watched = model
    crew = LocalCrew(content, checkpoint, samples())
    blocks = [ranges(content, checkpoint, block) for block in range(crew.blocks)]
    watched.calls.clear()
    run_through(measure_statistics(crew, frozenset({"input_norm"}), samples=6))
    for wanted in blocks:
        assert sorted(call for call in watched.calls if call in wanted) == sorted(wanted)


def test_another_block_than_the_expected_one_is_read_all_the_same(
    model: tuple[ContentStore, CheckpointRef, Watched],
) -> None:
    content, checkpoint, _ = model
    one, plain = worker(content, checkpoint), worker(content, checkpoint)
    one.load(0, then=(1, None))
    one.load(2, then=(3, None))
    plain.load(2)
    assert one.work.block == 2
    assert all(torch.equal(one.work.tensors[name], plain.work.tensors[name]) for name in plain.work.tensors)


def test_an_error_of_reading_ahead_is_raised_where_the_block_is_loaded(
    model: tuple[ContentStore, CheckpointRef, Watched],
) -> None:
    content, checkpoint, watched = model
    one, wanted = worker(content, checkpoint), ranges(content, checkpoint, 1)

    def before(call: str, key: str, start: int) -> None:
        if (call, key, start) in wanted:
            raise CorruptObject(f"{key} is damaged")

    watched.before = before
    one.load(0, then=(1, None))
    one.advance()
    with pytest.raises(CorruptObject, match="is damaged"):
        one.load(1)


def test_beside_the_block_at_work_one_other_is_in_memory(
    model: tuple[ContentStore, CheckpointRef, Watched],
) -> None:
    """Block 2 is not read before block 0 is stored."""
    content, checkpoint, watched = model
    one = worker(content, checkpoint)
    wanted = ranges(content, checkpoint, 2)
    storing, released = threading.Event(), threading.Event()

    def before(call: str, key: str, start: int) -> None:
        if call == "put":
            storing.set()
            assert released.wait(LONG)

    one.load(0, then=(1, None))
    _choose_all(one, content, checkpoint)
    watched.before = before
    one.store(None)
    one.load(1, then=(2, None))
    assert storing.wait(LONG)
    one.advance()
    assert not wanted & {*watched.calls}
    released.set()
    one.stored(0)
    one.load(2)
    assert wanted <= {*watched.calls}


def _choose_all(one: SweepWorker, content: ContentStore, checkpoint: CheckpointRef) -> None:
    plan = Uniform().plan(Unstructured(sparsity=0.5), prunable_weights(content, checkpoint), measured=())
    linears = [name for group in one.linear_groups() for name in group]
    one.choose(linears, None, Magnitude(), plan)
    one.apply([])


def pruned(
    content: ContentStore,
    checkpoint: CheckpointRef,
    *,
    seconds: float = 0,
    workers: int = 1,
    said: list[Progress | Note] | None = None,
) -> PrunedBlocks:
    plan = Uniform().plan(Unstructured(sparsity=0.5), prunable_weights(content, checkpoint), measured=())
    pruning = Pruning(method=Wanda(), plan=plan, propagation="pruned", samples=6)
    crew = LocalCrew(content, checkpoint, samples(), workers=workers)
    loop = prune_blocks(crew, pruning, progress=StageProgress(content, KEY, seconds))
    return run_through(loop, [].append if said is None else said.append)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_block_is_recorded_after_its_bytes_are_stored(
    model: tuple[ContentStore, CheckpointRef, Watched], workers: int
) -> None:
    content, checkpoint, watched = model
    said: list[Progress | Note] = []
    blocks = pruned(content, checkpoint, workers=workers, said=said).blocks
    puts = [key for call, key, _ in watched.calls if call == "put"]
    records = [puts.index(f"progress/{KEY}/block-{block:05d}.json") for block in range(len(blocks))]
    assert records == sorted(records)
    for block, record in zip(blocks, records, strict=True):
        for blob in (block.weights.file.blob, block.keep.blob):
            assert puts.index(content.key(blob)) < record
    done = [step.done for step in said if isinstance(step, Progress)]
    assert done == [*range(1, len(blocks) + 1)]
    assert not [*content.store.list(f"progress/{KEY}/activations-")]


@pytest.mark.parametrize("seconds", [0, 3600])
@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_an_error_of_storing_surfaces_and_another_attempt_goes_on(
    model: tuple[ContentStore, CheckpointRef, Watched], fails_at: int, seconds: float
) -> None:
    content, checkpoint, watched = model
    expected = pruned(content, checkpoint).blocks
    for found in [*content.store.list("progress/")]:
        content.store.delete(found.key)
    for block in expected:
        content.store.delete(content.key(block.weights.file.blob))
    broken = content.key(expected[fails_at].weights.file.blob)

    def before(call: str, key: str, start: int) -> None:
        if call == "put" and key == broken:
            raise StorageError("the disk is full")

    watched.before = before
    with pytest.raises(StorageError, match="the disk is full"):
        pruned(content, checkpoint, seconds=seconds)
    there = [*content.store.list(f"progress/{KEY}/block-")]
    assert len(there) == fails_at
    watched.before = lambda call, key, start: None
    said: list[Progress | Note] = []
    assert pruned(content, checkpoint, seconds=seconds, workers=2, said=said).blocks == expected
    notes = [step.text for step in said if isinstance(step, Note)]
    reached = fails_at if seconds == 0 else 0
    text = f"{fails_at} of {len(expected)} blocks are stored already; going on from block {reached}"
    assert notes == ([text] if fails_at else [])


def test_within_the_interval_no_snapshot_is_taken(
    model: tuple[ContentStore, CheckpointRef, Watched],
) -> None:
    content, checkpoint, watched = model
    pruned(content, checkpoint, seconds=3600)
    assert not [key for call, key, _ in watched.calls if call == "put" and "activations-" in key]
    watched.calls.clear()
    blocks = pruned(ContentStore(watched), checkpoint, seconds=0).blocks
    assert not [key for call, key, _ in watched.calls if "activations-" in key]  # all blocks are done already
    for found in [*content.store.list(f"progress/{KEY}/")]:
        content.store.delete(found.key)
    pruned(content, checkpoint, seconds=0)
    taken = {key for call, key, _ in watched.calls if call == "put" and key.endswith(".json")}
    entered = {f"progress/{KEY}/activations-{block:05d}.json" for block in range(1, len(blocks) - 1)}
    assert entered <= taken


def test_what_is_not_copied_yet_is_not_replaced(tmp_path: Path) -> None:
    hidden, others = made(5), made(5, seed=1)
    activations = Activations(iter([one.clone() for one in hidden]), budget=None)
    copy = activations.copy(first=0)

    def replace() -> None:
        for i, one in enumerate(others):
            activations[i] = one

    walking = threading.Thread(target=replace)
    walking.start()
    copy.make()
    walking.join()
    part = copy.store(LocalStore(tmp_path), "a")
    assert part is not None
    assert all(map(torch.equal, activations, others))
    activations.restore(LocalStore(tmp_path), [part], first=0)
    assert all(map(torch.equal, activations, hidden))


def test_a_copy_that_fails_holds_nobody_up(tmp_path: Path) -> None:
    activations = Activations(iter(made(3)), budget=None)
    copy = activations.copy(first=0)
    copy.end()
    activations[0] = made(1, seed=2)[0]
    assert stored(activations, LocalStore(tmp_path), "a", first=0) is not None
