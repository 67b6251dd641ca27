"""Keep tensors in training are packed and shared out; a checkpoint is read once by all workers."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorruptObject, ZerosLost
from pipeline.tensor.packing import pack_keep
from tests.workers.crews import together
from workers.training import held, ranks
from workers.training.held import HeldKeep, cleared, keep_of_parameter, unpacked
from workers.training.turns import Turns

CPU = torch.device("cpu")


def drawn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


@given(length=st.integers(1, 100), start=st.integers(0, 99), seed=st.integers(0, 99))
def test_any_range_of_the_bits(length: int, start: int, seed: int) -> None:
    keep = drawn((start + length + 3,), seed)
    assert torch.equal(unpacked(pack_keep(keep), start, length), keep[start : start + length])


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (9,)])
@pytest.mark.parametrize("chunk", [1, 8, 1000])
def test_clearing_in_chunks(shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a transposed gradient, which is not contiguous."""
    monkeypatch.setattr(held, "CHUNK", chunk)
    keep, values = drawn(shape, 1), torch.randn(shape)
    one = HeldKeep(keep, CPU)
    assert torch.equal(one.clear(values.clone()), values * keep)
    turned = values.t().contiguous().t() if values.dim() == 2 else values.clone()
    assert torch.equal(one.clear(turned), values * keep)
    assert torch.equal(one.whole(), keep)
    assert one.kept == int(keep.sum())


def test_a_masked_update_is_differentiable() -> None:
    keep = drawn((6, 5), 3)
    weight = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    one = HeldKeep(keep, CPU)
    assert torch.autograd.gradcheck(lambda w: cleared(w * 2, one).square(), (weight,))
    (gradient,) = torch.autograd.grad(cleared(weight * 2, one).sum(), weight)
    assert torch.equal(gradient, 2.0 * keep)


def test_fused_parameters_are_their_matrices_one_after_the_other() -> None:
    keeps = {"a": drawn((2, 3), 1), "c": drawn((2, 3), 2)}
    whole = keep_of_parameter(("a", "b", "c"), keeps, (3, 2, 3))
    assert torch.equal(whole, torch.stack([keeps["a"], torch.ones(2, 3, dtype=torch.bool), keeps["c"]]))


@pytest.mark.slow
def test_several_workers(tmp_path: Path) -> None:
    together(_share, tmp_path, workers=3)
    reads = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert reads == [["a", "d"], ["b"], ["c"]]


def _share(rank: int, port: int, directory: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=3)
    # Each worker holds a third of the bits, and clears as one that has them all.
    keep, values = drawn((40, 50), 5), torch.ones(40, 50)
    one = HeldKeep(keep, CPU)
    assert one.bytes_here == -(-40 * 50 // 8 // 3)
    assert torch.equal(one.clear(values), keep.float())
    assert torch.equal(one.range(77, 99), keep.flatten()[77:176])
    # Each tensor is read by one worker; all get it.
    values_of = {name: torch.full((4, 2), float(place)) for place, name in enumerate("abcd")}
    read: list[str] = []

    def reading(name: str) -> torch.Tensor:
        read.append(name)
        return values_of[name]

    with Turns(reading, list("abcd")) as turns:
        for name in "abcd":
            place = torch.empty(4, 2, dtype=torch.bfloat16)
            turns.fill(place)
            assert torch.equal(place.float(), values_of[name])
    (directory / str(rank)).write_text(" ".join(read))

    # What one worker cannot read or certify fails on all, and none waits.
    def broken(name: str) -> torch.Tensor:
        raise CorruptObject(f"{name} is damaged")

    with Turns(broken, ["a", "b"]) as turns, pytest.raises(CorruptObject, match="a is damaged"):
        turns.fill(torch.empty(1))

    def certify() -> int:
        if ranks.rank() == 1:
            raise ZerosLost("a weight has come back")
        return rank

    with pytest.raises(ZerosLost, match="come back"):
        ranks.each(certify)
    assert ranks.each(lambda: rank) == [0, 1, 2]
    dist.barrier()
    dist.destroy_process_group()
