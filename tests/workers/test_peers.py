"""The process group of a gang: sums have the bits of one member, and decisions arrive unchanged."""

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.blocks.block import ChosenLinear
from pipeline.tensor.gains import GainShare
from pipeline.tensor.statistics import Gram, GramTree, leaf_size, share_edges, tree_sum
from tests.workers.crews import together
from workers.gang.peers import MeetingPlace, Peers, PeersLost, join

pytestmark = pytest.mark.slow
HOST = "127.0.0.1"
MEMBERS = 3
CASES = [
    (20, 6),
    (1, 4),
    (2, 1),
    (32, 5),
]  # samples, features: with idle members, and with sums of one number


def parts_of(samples: int, features: int, members: int) -> list[Gram]:
    """The parts of a gram that so many members would have measured."""
    generator = torch.Generator().manual_seed(samples)
    inputs = [torch.randn(5, features, generator=generator) * 10.0 ** (i % 7) for i in range(samples)]
    parts: list[Gram] = []
    for first, end in itertools.pairwise(share_edges(samples, members)):
        tree = GramTree(features, leaf=leaf_size(samples), first=first, device=torch.device("cpu"))
        for x_TI in inputs[first:end]:
            tree.add(x_TI)
        parts.append(tree.parts())
    return parts


def decision(member: int, linear: int) -> ChosenLinear:
    return ChosenLinear(
        packed_keep=torch.arange(3, dtype=torch.uint8) + member,
        pruned=10 * member + linear,
        weight_OI=torch.full((2, 4 + linear), float(member), dtype=torch.bfloat16),
        note="damped: λ" if linear else None,
    )


def decided(member: int) -> dict[str, ChosenLinear]:
    """Members decide on different numbers of linears; member 0 on none."""
    return {f"linear {member} {i}": decision(member, i) for i in range(member)}


def gains(member: int) -> GainShare:
    return GainShare(torch.full((1, 3, 4), member / 3, dtype=torch.float64), None, leaf=2, first=member)


def test_alone_nobody_is_needed() -> None:
    [part] = parts_of(20, 6, 1)
    assert torch.equal(sole(Peers().sum_up(part, to=[0], reproducible=True)), tree_sum([part]))
    assert Peers().spread(decided(1), to=[0]) == []


def test_any_number_of_members_sums_to_the_bits_of_one(tmp_path: Path) -> None:
    together(_sums, tmp_path, workers=MEMBERS)
    for case, (samples, features) in enumerate(CASES):
        expected = tree_sum(parts_of(samples, features, 1))
        for rank in range(MEMBERS):
            to_all, to_one, plain = torch.load(tmp_path / f"{case}-{rank}.pt", weights_only=True)
            assert torch.equal(to_all, expected)
            assert torch.equal(to_one, expected) if rank == 1 else to_one is None
            torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_decisions_arrive_unchanged(tmp_path: Path) -> None:
    together(_spreads, tmp_path, workers=MEMBERS)
    assert all((tmp_path / f"{rank}.ok").exists() for rank in range(MEMBERS))


def test_whoever_waits_for_a_dead_member_is_told(tmp_path: Path) -> None:
    together(_dies, tmp_path, workers=MEMBERS)
    assert [path.name for path in sorted(tmp_path.glob("*.lost"))] == ["0.lost", "2.lost"]


def sole(total: Tensor | None) -> Tensor:
    assert total is not None
    return total


def joined(rank: int, port: int) -> Peers:
    torch.set_num_threads(1)
    store = None
    if rank == 0:
        store = dist.TCPStore(HOST, port, is_master=True, wait_for_workers=False)
    return join(MeetingPlace(HOST, port), rank=rank, size=MEMBERS, host=HOST, whole_gpus=False, store=store)


def _sums(rank: int, port: int, directory: Path) -> None:
    peers = joined(rank, port)
    for case, (samples, features) in enumerate(CASES):
        own = parts_of(samples, features, MEMBERS)[rank]
        to_all = peers.sum_up(own, to=range(MEMBERS), reproducible=True)
        to_one = peers.sum_up(own, to=[1], reproducible=True)
        plain = peers.sum_up(own, to=range(MEMBERS), reproducible=False)
        torch.save((to_all, to_one, plain), directory / f"{case}-{rank}.pt")
    assert peers.sent_bytes > 0
    dist.destroy_process_group()


def _spreads(rank: int, port: int, directory: Path) -> None:
    peers = joined(rank, port)
    for to in (range(MEMBERS), [0]):
        found = peers.spread(decided(rank), to=to)
        expected = [decided(one) for one in range(MEMBERS) if one != rank]
        if rank not in to:
            expected = [{} for _ in expected]
        assert [list(one) for one in found] == [list(one) for one in expected]
        for got, sent in zip(found, expected, strict=True):
            for name, linear in sent.items():
                assert torch.equal(got[name].packed_keep, linear.packed_keep)
                assert torch.equal(got[name].weight_OI, linear.weight_OI)
                assert got[name].weight_OI.dtype == linear.weight_OI.dtype
                assert (got[name].pruned, got[name].note) == (linear.pruned, linear.note)
    given = peers.spread({"experts": gains(rank)} if rank else {}, to=[0])  # member 0 has no samples
    assert [list(one) for one in given] == ([["experts"], ["experts"]] if rank == 0 else [[], []])
    for member, one in enumerate(given, start=1):
        for share in one.values():
            assert (share.leaf, share.first, share.products_N2EE) == (2, member, None)
            assert torch.equal(share.sums_N3E, gains(member).sums_N3E)
    (directory / f"{rank}.ok").touch()
    dist.destroy_process_group()


def _dies(rank: int, port: int, directory: Path) -> None:
    peers = joined(rank, port)
    part = parts_of(9, 4, MEMBERS)[rank]
    if rank == 1:
        _sum_up(peers, part, times=1)
        dist.destroy_process_group()
        return  # the process ends, and with it its connections
    with pytest.raises(PeersLost, match="lost its connection"):
        _sum_up(peers, part, times=2)
    (directory / f"{rank}.lost").touch()


def _sum_up(peers: Peers, part: Gram, *, times: int) -> None:
    for _ in range(times):
        peers.sum_up(part, to=[0], reproducible=True)
