"""The process group of a gang: its actors send one another grams, gradients, statistics and decisions.

torch.distributed carries them: NCCL those of whole GPUs, gloo all others. Every member calls the same
operations in the same order. No limit of time ends an operation, because the slowest member may solve for
hours, and Ray notices when a member has died (crew.py).

Sums are made in slices. Each member gets its slice of all parts, adds them up along the tree over the samples
(pipeline/tensor/statistics.py), and sends the result to the members that need it. So a member sends and
receives about twice the size of a sum, however many members there are, and the bits are those of one member.
"""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined] # torch exports it by a star

from pipeline.blocks.block import ChosenLinear
from pipeline.blocks.crew import Parcel
from pipeline.errors import MachineFailed
from pipeline.tensor.gains import GainShare
from pipeline.tensor.statistics import Gram, InputShare, Node, tree_sum

MEETING = timedelta(minutes=10)
UNLIMITED = timedelta(days=365)
LENGTH_BYTES, SHORT = 8, 1016  # the parts of a message whose size everybody knows
PARCELS = {kind.__name__: kind for kind in (ChosenLinear, InputShare, GainShare)}
Flow = dict[int, list[Tensor]]  # by member: flat tensors that go there or come from there, in their order


class PeersLost(MachineFailed):
    """The connection to another member broke, most likely because its process has died."""

    blame = "machine"


@dataclass(frozen=True)
class MeetingPlace:
    """The address at which member 0 waits for the others."""

    host: str
    port: int


class Peers:
    """One member's end of the group: number `rank` of `size`. Alone, it needs no group. Tensors are sent from
    memory of `device`; `sent_bytes` counts them."""

    def __init__(self, *, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self.sent_bytes = 0
        self._device = device or torch.device("cpu")
        self._others = [peer for peer in range(size) if peer != rank]

    def sum_up(self, part: Gram, *, to: Sequence[int], reproducible: bool) -> Tensor | None:
        """Returns the sum of all members' parts if this member is one of `to`. A member may have none. The
        parts may be changed. Raises PeersLost.

        If it need not be `reproducible`, each member adds up its own parts, and an all-reduce adds up these
        sums in an order that depends on the backend and on the number of members.
        """
        if self.size == 1:
            return tree_sum([part])
        told = self._told({"nodes": list(part), "shape": [*next(iter(part.values())).shape] if part else []})
        nodes: list[list[Node]] = [[(level, index) for level, index in one["nodes"]] for one in told]
        shape: list[int] = next(one["shape"] for one in told if one["nodes"])
        flat = {node: tensor.to(self._device).reshape(-1) for node, tensor in part.items()}
        if reproducible:
            total = self._in_slices(flat, nodes, math.prod(shape), to)
        else:
            total = self._reduced(flat, math.prod(shape), to)
        return None if total is None else total.view(shape)

    def spread(self, own: Mapping[str, Parcel], *, to: Sequence[int]) -> list[Mapping[str, Parcel]]:
        """Returns what the other members give, in their order, if this member is one of `to`. Raises
        PeersLost."""
        if self.size == 1:
            return []
        told = self._told({name: _described(one) for name, one in own.items()})
        bytes_of = [tensor for one in own.values() for tensor in _tensors(one).values()]
        leaving = [_bytes(tensor.to(self._device)) for tensor in bytes_of]
        coming: list[dict[str, Parcel]] = [{} for _ in told]
        arriving: Flow = {}
        for peer in self._others if self.rank in to else ():
            for name, described in told[peer].items():
                buffers: dict[str, Any] = {
                    field: torch.empty(shape, dtype=getattr(torch, dtype), device=self._device)
                    for field, (dtype, shape) in described["tensors"].items()
                }
                arriving.setdefault(peer, []).extend(_bytes(one) for one in buffers.values())
                kind: Any = PARCELS[described["kind"]]
                coming[peer][name] = kind(**described["plain"], **buffers)
        self._exchange({peer: leaving for peer in to if peer != self.rank}, arriving)
        return [{name: _on_cpu(one) for name, one in coming[peer].items()} for peer in self._others]

    def _in_slices(
        self, flat: Gram, nodes: Sequence[Sequence[Node]], size: int, to: Sequence[int]
    ) -> Tensor | None:
        edges = [size * i // self.size for i in range(self.size + 1)]
        slices = [slice(first, end) for first, end in itertools.pairwise(edges)]
        mine = slices[self.rank]
        parts = [
            {node: flat[node][mine] if peer == self.rank else self._empty(mine) for node in nodes[peer]}
            for peer in range(self.size)
        ]
        self._exchange(
            {peer: [tensor[slices[peer]] for tensor in flat.values()] for peer in self._others},
            {peer: list(parts[peer].values()) for peer in self._others},
        )
        summed = tree_sum(parts)
        total = self._empty(slice(0, size)) if self.rank in to else None
        arriving: Flow = {}
        if total is not None:
            total[mine] = summed
            arriving = {peer: [total[slices[peer]]] for peer in self._others}
        self._exchange({peer: [summed] for peer in to if peer != self.rank}, arriving)
        return total

    def _reduced(self, flat: Gram, size: int, to: Sequence[int]) -> Tensor | None:
        total = tree_sum([flat]) if flat else torch.zeros(size, device=self._device)
        self.sent_bytes += total.nbytes
        with _connected():
            if len(to) == 1:
                dist.reduce(total, dst=to[0])
            else:
                dist.all_reduce(total)
        return total if self.rank in to else None

    def _exchange(self, leaving: Flow, arriving: Flow) -> None:
        """Sends and receives flat tensors, at most one from and to each member at a time. Empty ones stay."""
        leaving = {peer: [one for one in sent if len(one)] for peer, sent in leaving.items()}
        arriving = {peer: [one for one in come if len(one)] for peer, come in arriving.items()}
        rounds = max((len(one) for one in (*leaving.values(), *arriving.values())), default=0)
        for turn in range(rounds):
            sends = [(peer, sent[turn]) for peer, sent in leaving.items() if turn < len(sent)]
            receives = [(peer, come[turn]) for peer, come in arriving.items() if turn < len(come)]
            asked = [dist.P2POp(dist.isend, tensor, peer) for peer, tensor in sends]
            asked += [dist.P2POp(dist.irecv, tensor, peer) for peer, tensor in receives]
            self.sent_bytes += sum(tensor.nbytes for _, tensor in sends)
            with _connected():
                for work in dist.batch_isend_irecv(asked) if asked else ():
                    work.wait()

    def _told(self, own: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns what every member says, as JSON: at once if it is short, and the rest in a second turn."""
        said = json.dumps(own).encode()
        heard = self._all_gathered(len(said).to_bytes(LENGTH_BYTES) + said[:SHORT], LENGTH_BYTES + SHORT)
        lengths = [int.from_bytes(one[:LENGTH_BYTES]) for one in heard]
        texts = [one[LENGTH_BYTES:] for one in heard]
        if (rest := max(lengths) - SHORT) > 0:
            more = self._all_gathered(said[SHORT:], rest)
            texts = [text + further for text, further in zip(texts, more, strict=True)]
        return [json.loads(text[:length]) for text, length in zip(texts, lengths, strict=True)]

    def _all_gathered(self, own: bytes, size: int) -> list[bytes]:
        """Returns every member's bytes, with zeros after them up to `size`."""
        mine = torch.frombuffer(bytearray(own.ljust(size, b"\0")), dtype=torch.uint8)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with _connected():
            dist.all_gather(found, mine)
        return [one.numpy().tobytes() for one in found]

    def _empty(self, part: slice) -> Tensor:
        return torch.empty(part.stop - part.start, device=self._device)


def meeting_place(host: str) -> tuple[Store, MeetingPlace]:
    """Opens the store of a new group in the process of member 0, at a free port of this host."""
    store = TCPStore(host, 0, is_master=True, timeout=MEETING, wait_for_workers=False)
    return store, MeetingPlace(host, store.port)


def join(
    place: MeetingPlace,
    *,
    rank: int,
    size: int,
    host: str,
    whole_gpus: bool,
    store: Store | None = None,
) -> Peers:
    """Waits until all members have joined the group. `host`: this process's own address; gloo would guess it
    from the host's name. `whole_gpus`: no two members share a GPU, which NCCL does not allow. `store`: the
    open one of member 0. Raises PeersLost."""
    if interface := _interface(host):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    with _connected():
        if store is None:
            store = TCPStore(place.host, place.port, timeout=MEETING)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if whole_gpus else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=UNLIMITED,
        )
        device = torch.device("cuda" if whole_gpus else "cpu")
        if whole_gpus:
            dist.all_reduce(torch.zeros(1, device=device))  # NCCL connects everybody in its first operation
    return Peers(rank=rank, size=size, device=device)


def _interface(host: str) -> str | None:
    """The name of the network interface that has this address; every address of 127.0.0.0/8 is loopback."""
    wanted = "127.0.0.1" if host.startswith("127.") else host
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == wanted for address in addresses):
            return str(name)
    return None


@contextmanager
def _connected() -> Iterator[None]:
    """Raises PeersLost for errors of a backend, which are plain RuntimeErrors."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeersLost(f"a worker lost its connection to another one: {error}") from error


def _described(parcel: Parcel) -> dict[str, Any]:
    tensors = _tensors(parcel)
    return {
        "kind": type(parcel).__name__,
        "tensors": {
            name: (str(one.dtype).removeprefix("torch."), [*one.shape]) for name, one in tensors.items()
        },
        "plain": {
            field.name: getattr(parcel, field.name) for field in fields(parcel) if field.name not in tensors
        },
    }


def _tensors(parcel: Parcel) -> dict[str, Tensor]:
    values = {field.name: getattr(parcel, field.name) for field in fields(parcel)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes as a flat tensor, of the same memory if that is contiguous."""
    return tensor.reshape(-1).view(torch.uint8)


def _on_cpu(parcel: Parcel) -> Parcel:
    """Decisions lie in main memory until they are stored, and statistics are merged there."""
    moved: dict[str, Any] = {name: tensor.cpu() for name, tensor in _tensors(parcel).items()}
    return replace(parcel, **moved)
