"""A walk whose workers are about to be taken away stores what it has done, and the next repeats nothing."""

import re

import pytest

from pipeline.allocations import Uniform
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.measuring import measure_statistics
from pipeline.blocks.pruning import Pruning, prune_blocks
from pipeline.blocks.steps import Note, Progress, run_through
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.errors import WorkerLost
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import Unstructured
from pipeline.spec.propagation import Propagation
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.storage.content import ContentStore
from pipeline.storage.progress import StageProgress
from tests.checkpoints import imported
from tests.models import tiny_checkpoint
from tests.pipeline.blocks.test_sweep import samples

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

BLOCKS = 4


class LeavingCrew(LocalCrew):
    """Gets notice at the given time that it is asked for it."""

    notice_at = 1

    def leaving(self) -> bool:
        self.notice_at -= 1
        return self.notice_at <= 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[ContentStore, CheckpointRef]:
    directory = tmp_path_factory.mktemp("leaving")
    return imported(tiny_checkpoint("llama", directory / "model"), directory / "store")


def pruning(
    model: tuple[ContentStore, CheckpointRef],
    propagation: Propagation = "pruned",
    *,
    reconstruction: BlockReconstruction | None = None,
) -> Pruning:
    plan = Uniform().plan(Unstructured(sparsity=0.5), prunable_weights(*model), measured=())
    return Pruning(
        method=Wanda(), plan=plan, propagation=propagation, samples=6, reconstruction=reconstruction
    )


@pytest.mark.parametrize("kind", ["measure", "pruned", "linear", "reconstruction"])
@pytest.mark.parametrize("after", [1, 3])
def test_whoever_goes_on_runs_no_block_again(
    model: tuple[ContentStore, CheckpointRef], kind: str, after: int
) -> None:
    said: list[Progress | Note] = []

    def walked(crew: LocalCrew, key: str) -> object:
        said.clear()
        progress = StageProgress(model[0], key, snapshot_seconds=3600)
        if kind == "measure":
            needs = frozenset({"input_norm", "hessian"})
            return run_through(measure_statistics(crew, needs, samples=6, progress=progress), said.append)
        fits = BlockReconstruction(epochs=1, samples_per_step=4) if kind == "reconstruction" else None
        asked = pruning(model, "linear" if kind == "linear" else "pruned", reconstruction=fits)
        return run_through(prune_blocks(crew, asked, progress=progress), said.append)

    alone = LocalCrew(*model, samples())
    expected = walked(alone, f"{kind}-{after}-alone")
    leaving = LeavingCrew(*model, samples())
    leaving.notice_at = after
    with pytest.raises(WorkerLost, match=f"; {after} of {BLOCKS} blocks are stored"):
        walked(leaving, f"{kind}-{after}")
    going_on = LocalCrew(*model, samples(), workers=2)
    assert walked(going_on, f"{kind}-{after}") == expected
    first = next(step.text for step in said if isinstance(step, Note))
    assert re.search(rf"{after} of {BLOCKS} blocks .* going on from block {after}$", first)
    forwards = [(use.forwards, use.cut_forwards) for use in (alone.use(), leaving.use(), going_on.use())]
    assert forwards[0] == tuple(map(sum, zip(*forwards[1:], strict=True)))


def test_nothing_is_left_before_the_end_of_the_last_block(model: tuple[ContentStore, CheckpointRef]) -> None:
    leaving = LeavingCrew(*model, samples())
    leaving.notice_at = BLOCKS
    progress = StageProgress(model[0], "end", snapshot_seconds=3600)
    made = run_through(prune_blocks(leaving, pruning(model), progress=progress))
    assert len(made.blocks) == BLOCKS
    assert not [*model[0].store.list("progress/end/activations-")]


def test_without_samples_there_are_no_activations_to_store(model: tuple[ContentStore, CheckpointRef]) -> None:
    asked = pruning(model)
    plain = Pruning(method=Magnitude(), plan=asked.plan, propagation="dense", samples=0)
    progress = StageProgress(model[0], "magnitude", snapshot_seconds=3600)
    leaving = LeavingCrew(*model, [])
    with pytest.raises(WorkerLost, match="1 of 4"):
        run_through(prune_blocks(leaving, plain, progress=progress))
    assert not [*model[0].store.list("progress/magnitude/activations-")]
    made = run_through(prune_blocks(LocalCrew(*model, []), plain, progress=progress))
    assert made.blocks == run_through(prune_blocks(LocalCrew(*model, []), plain)).blocks


def test_a_walk_that_stores_nothing_goes_on_to_its_end(model: tuple[ContentStore, CheckpointRef]) -> None:
    made = run_through(prune_blocks(LeavingCrew(*model, samples()), pruning(model)))
    assert len(made.blocks) == BLOCKS
