"""Under ZeRO 3 a tensor that one worker has read reaches each worker as its shard, and as nothing else."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipeline.artifacts.refs import CheckpointRef
from pipeline.errors import CorruptObject
from pipeline.request.resources import TrainingResources
from pipeline.storage import ContentStore, LocalStore
from tests.checkpoints import imported
from tests.models import Kind, tiny_checkpoint
from tests.workers.crews import together

pytestmark = pytest.mark.slow
WORKERS = 3
KINDS: tuple[Kind, ...] = ("llama", "mixtral")  # the experts of Mixtral are one parameter of several tensors
CPU = torch.device("cpu")


def test_each_worker_gets_its_shard_and_an_error_is_everybodys(tmp_path: Path) -> None:
    for kind in KINDS:
        _, checkpoint = imported(tiny_checkpoint(kind, tmp_path / kind), tmp_path / "store")
        (tmp_path / f"{kind}.json").write_text(checkpoint.model_dump_json())
    together(_loads, tmp_path, workers=WORKERS)
    assert all((tmp_path / f"{rank}.ok").exists() for rank in range(WORKERS))


def _loads(rank: int, port: int, directory: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORKERS), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from workers.training import ranks
    from workers.training.config import teacher_config
    from workers.training.engine import prepare_process
    from workers.training.model import load_model

    torch.set_num_threads(1)
    prepare_process(cuda=False)
    content = ContentStore(LocalStore(directory / "store"))
    config = teacher_config(TrainingResources(teacher="sharded"), workers=WORKERS, precision="float32")
    honest, arrived = ranks.handed_out, []

    def counted(worker: int, whole: torch.Tensor | None, own: torch.Tensor, edges: list[int]) -> None:
        arrived.append(len(own))
        honest(worker, whole, own, edges)

    ranks.handed_out = counted  # type: ignore[assignment]
    for kind in KINDS:
        ref = CheckpointRef.model_validate_json((directory / f"{kind}.json").read_text())
        whole = dict(load_model(content, ref, dtype=torch.float32, device=CPU).model.named_parameters())
        arrived.clear()
        sharded = load_model(content, ref, dtype=torch.float32, device=CPU, partition=config).model
        for name, parameter in sharded.named_parameters():
            flat, shard = whole[name].detach().view(-1), parameter.ds_tensor
            own = flat[rank * len(shard) : (rank + 1) * len(shard)]
            assert torch.equal(shard[: len(own)], own), (kind, name)
        sizes = [one.numel() for one in whole.values()]
        assert sum(arrived) <= sum(-(-size // WORKERS) for size in sizes)
    _fails(content, ref, config, rank)
    (directory / f"{rank}.ok").touch()
    dist.destroy_process_group()


def _fails(content: ContentStore, ref: CheckpointRef, config: dict[str, object], rank: int) -> None:
    """One worker cannot read a tensor, and all of them stop."""
    from pipeline.checkpoint.reader import CheckpointReader
    from workers.training.model import load_model

    honest = CheckpointReader.tensor

    def damaged(self: CheckpointReader, name: str) -> torch.Tensor:
        if rank == 1 and "norm" in name:
            raise CorruptObject("planted")
        return honest(self, name)

    CheckpointReader.tensor = damaged  # type: ignore[method-assign]
    with pytest.raises(CorruptObject, match="planted"):
        load_model(content, ref, dtype=torch.float32, device=CPU, partition=config)
