"""A simulated GPU: tensors that claim to be on `cuda:0` while the CPU computes them, so that code for GPUs
runs in tests on machines without one, and gives the bits of the CPU.

Within `simulated_gpu()` every operation passes through `SimulatedGpu`, which

- refuses to mix devices, as CUDA does: a tensor of the CPU may meet one of the GPU only if it is a single
  number, and the memory of a GPU tensor is not visible to numpy;
- counts kernels, copies between the devices, and the points where the host waits for the GPU (`.item()`,
  `bool()`, `.cpu()`, and shapes that depend on data, as those of `nonzero` and of boolean masks);
- counts the bytes that live tensors hold, at their peak too.

It does not simulate time, streams, or the rounding of a real GPU.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
NAME = "Simulated GPU"

# These read a result before the host can go on, or need its values to know the shape of their own.
WAITING = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
    "_linalg_check_errors",
    "bincount",
}
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index"}  # they wait for the count of a boolean mask
ALLOWED_APART = {"copy_", "_to_copy", *INDEXING}  # CUDA lets them take a tensor of the CPU


class GpuTensor(Tensor):
    """A tensor that claims to be on the GPU; `held` has its values, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "GpuTensor":
        made: GpuTensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CPU,  # as torch's own code sees it, which then works as it does on the CPU
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"GpuTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Handle the methods that decide by the device in torch's own code, which would see the CPU."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in (Tensor.numpy, Tensor.__array__, Tensor.data_ptr):
                raise TypeError("can't convert cuda:0 device type tensor to numpy; copy it with .cpu() first")
            if func is Tensor.tolist:
                return _moved(args[0], CPU).tolist()
            if func is Tensor.cpu:
                return _moved(args[0], CPU)
            if func is Tensor.to:
                device, dtype, copies = _destination(*args[1:], **kwargs)
                moved = args[0] if device == GPU else _moved(args[0], device)
                return Tensor.to(moved, dtype or moved.dtype, copy=copies and device == GPU)
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise RuntimeError("a simulated tensor is used outside of simulated_gpu()")


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    moved: Tensor = torch.ops.aten._to_copy.default(tensor, device=device)
    return moved


def _destination(
    *args: object, device: object = None, dtype: torch.dtype | None = None, copy: bool = False, **_: object
) -> tuple[torch.device, torch.dtype | None, bool]:
    """The device, type and copy that the arguments of `Tensor.to` ask for."""
    for one in args:
        if isinstance(one, torch.dtype):
            dtype = one
        elif isinstance(one, str | torch.device):
            device = one
        elif isinstance(one, Tensor):
            device, dtype = one.device, one.dtype
    return torch.device(device) if device is not None else GPU, dtype, copy  # type: ignore[arg-type]


class SimulatedGpu(TorchDispatchMode):
    """The device, and what it has counted so far. `waits` names the operations that made the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.uploads = 0
        self.downloads = 0
        self.waits: Counter[str] = Counter()
        self.pinned = 0  # tensors of the host whose memory is pinned
        self.bytes = 0
        self.peak_bytes = 0
        self.fractions: list[float] = []  # the limits that the process has set itself
        self._storages: dict[int, int] = {}

    @property
    def syncs(self) -> int:
        """How often the host waited for the GPU, to read from it."""
        return self.waits.total()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        on_gpu = [one for one in tensors if isinstance(one, GpuTensor)]
        asked = kwargs.get("device")
        target = GPU if on_gpu else CPU
        if asked is not None and not (on_gpu and asked == CPU and name != "_to_copy"):
            target = torch.device(asked)  # but `new_zeros` names the device that torch's own code sees
        if target.type == "cuda":
            kwargs |= {"device": CPU} if asked is not None else {}
        if kwargs.pop("pin_memory", None) and name != "_to_copy":
            self.pinned += 1
        if not on_gpu and target.type != "cuda":
            return func(*args, **kwargs)
        self._count(name, args, tensors, on_gpu, target)
        plain_args, plain_kwargs = tree_map(_held, (args, kwargs))
        made = _histc(*plain_args, **plain_kwargs) if name == "histc" else func(*plain_args, **plain_kwargs)
        if name == "copy_" and not isinstance(args[0], GpuTensor):
            return args[0]
        if target.type != "cuda":
            return made
        known = {id(one.held): one for one in on_gpu}  # operations in place return their argument
        return tree_map(lambda one: known[id(one)] if id(one) in known else self._wrapped(one), made)

    def _count(
        self, name: str, args: Any, tensors: list[Tensor], on_gpu: list[GpuTensor], target: torch.device
    ) -> None:
        apart = [one for one in tensors if not isinstance(one, GpuTensor) and one.device.type != "meta"]
        if name in ("_to_copy", "copy_"):
            into_gpu = isinstance(args[0], GpuTensor) if name == "copy_" else target == GPU
            if into_gpu and apart:
                self.uploads += 1
            elif not into_gpu and on_gpu and target.type != "meta":
                self.downloads += 1
                self.waits[name] += 1
        elif on_gpu and name not in ALLOWED_APART and any(one.dim() for one in apart):
            raise RuntimeError(
                f"expected all tensors to be on the same device, but {name} got some on cuda:0, some on cpu"
            )
        if name in WAITING:
            self.waits[name] += 1
        if name in INDEXING:
            masks = [one for one in args[1] if one is not None and one.dtype == torch.bool]
            self.waits.update(name for _ in masks)
            self.uploads += len(apart)
        self.kernels += 1

    def _wrapped(self, made: object) -> object:
        if not isinstance(made, Tensor):
            return made
        storage = made.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = storage.nbytes()
            self.bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.bytes)
            weakref.finalize(storage, self._freed, key)
        return GpuTensor(made)

    def _freed(self, key: int) -> None:
        self.bytes -= self._storages.pop(key)


def _held(one: object) -> object:
    return one.held if isinstance(one, GpuTensor) else one


def _histc(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """CUDA counts integers too, the CPU does not."""
    return torch.ops.aten.histc(values.float(), *args, **kwargs).to(values.dtype)


@contextmanager
def simulated_gpu(total: int = 1 << 30) -> Iterator[SimulatedGpu]:
    """The simulated device with `total` bytes, while the block of code runs. Tensors that it made cannot be
    used afterwards."""
    gpu = SimulatedGpu()

    def reset(device: object = None) -> None:
        gpu.peak_bytes = gpu.bytes

    instead: dict[str, Callable[..., object]] = {
        "_lazy_init": lambda: None,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: NAME,
        "max_memory_allocated": lambda device=None: gpu.peak_bytes,
        "reset_peak_memory_stats": reset,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (total - gpu.bytes, total),
        "synchronize": lambda device=None: gpu.waits.update(["synchronize"]),
        "set_per_process_memory_fraction": lambda fraction, device=None: gpu.fractions.append(fraction),
    }
    made_by_torch = torch.tensor

    def tensor(data: object, *, device: object = None, **options: Any) -> Tensor:
        """`torch.tensor` fills memory itself, which no mode sees."""
        made = made_by_torch(data, device=CPU, **options)
        return made if device is None else made.to(device)  # type: ignore[call-overload,no-any-return]

    with pytest.MonkeyPatch.context() as patch, gpu:
        patch.setattr(torch, "tensor", tensor)
        for name, function in instead.items():
            patch.setattr(torch.cuda, name, function)
        yield gpu
