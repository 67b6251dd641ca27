"""The simulated GPU refuses and counts what a real one would."""

import pytest
import torch
from torch.nn import functional

from tests.simulated_device import GPU, simulated_gpu


def test_tensors_move_compute_and_come_back() -> None:
    x = torch.randn(4, 8)
    expected = functional.silu(x @ x.t()).sum(dim=0)
    with simulated_gpu() as gpu:
        there = x.to(GPU)
        for one in (there, torch.zeros(3, device=GPU), there.new_zeros(2), torch.empty_like(there)):
            assert one.device == GPU
            assert one.is_cuda
        assert torch.arange(3, device=there.device).is_cuda
        product = functional.silu(there @ there.t()).sum(dim=0)
        assert product.is_cuda
        assert gpu.syncs == gpu.downloads == 0
        back = product.cpu()
        assert (gpu.uploads, gpu.downloads, gpu.syncs) == (1, 1, 1)
        assert there.to(GPU) is there
        assert there.to(torch.float64).is_cuda
        assert there.to("cpu", torch.bfloat16).device.type == "cpu"
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
    assert back.equal(expected)


def test_devices_do_not_mix() -> None:
    with simulated_gpu():
        there, here = torch.ones(3, device=GPU), torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        assert float((there + torch.tensor(2.0)).sum()) == 9


def test_waiting_is_counted() -> None:
    with simulated_gpu() as gpu:
        x = torch.arange(4.0, device=GPU)
        cases = (
            lambda: float(x.sum()),
            lambda: bool((x > 0).any()),
            lambda: int(x.argmax()),
            lambda: x.sum().item(),
            lambda: x[0].tolist(),
            lambda: x[x > 1],
            lambda: x.nonzero(),
            lambda: x.unique(),
            lambda: x.masked_select(x > 1),
            lambda: torch.equal(x, x),
            lambda: x.cpu(),
            lambda: torch.zeros(4).copy_(x),
        )
        for number, case in enumerate(cases, start=1):
            case()
            assert gpu.syncs == number, number
        for silent in (lambda: x[1:], lambda: x * 2, lambda: x.where(x > 1, 0.0), lambda: x.sort()):
            silent()
        assert gpu.syncs == len(cases)


def test_writes_in_place_and_through_views_are_seen() -> None:
    with simulated_gpu():
        x = torch.zeros(2, 3, device=GPU)
        x[0].add_(1)
        x[:, 1] = 5
        x.view(-1)[5:].copy_(torch.tensor([7.0]))
        assert x.tolist() == [[1, 5, 1], [0, 5, 7]]


def test_gradients_are_those_of_the_cpu() -> None:
    query = torch.randn(1, 2, 5, 4)
    weight = torch.randn(4, 4)

    def gradient(q: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        leaf = w.detach().requires_grad_()
        with torch.enable_grad():
            k = q @ leaf
            loss = functional.scaled_dot_product_attention(q, k, k, is_causal=True).square().mean()
        return torch.autograd.grad(loss, [leaf])[0]

    expected = gradient(query, weight)
    with simulated_gpu():
        assert gradient(query.to(GPU), weight.to(GPU)).cpu().equal(expected)


def test_bytes_of_live_tensors_are_counted() -> None:
    with simulated_gpu() as gpu:
        x = torch.zeros(1000, device=GPU)
        part = x[10:]
        assert gpu.bytes == 4000
        y = x + 1
        assert gpu.bytes == 8000
        del x, y
        assert (gpu.bytes, torch.cuda.max_memory_allocated(GPU)) == (4000, 8000)
        del part
        assert gpu.bytes == 0
