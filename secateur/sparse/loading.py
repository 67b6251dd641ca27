"""Opens a pruned checkpoint as a transformers model whose pruned linears are sparse.

transformers itself builds the model and fills it. It gets each tensor through a stand-in that is read from
its file when it is wanted. The stand-in of a sparse linear has one zero behind all its places, so that its
dense weight never exists; afterwards the module is replaced.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from secateur.sparse.dense import DenseLinear
from secateur.sparse.directories import packed_directory, weight_files
from secateur.sparse.errors import SparseError
from secateur.sparse.files import TYPES, SparseFile, Values, value_count
from secateur.sparse.linear import SparseLinear
from secateur.sparse.operators import backend
from secateur.sparse.packed import Packed, pack
from secateur.sparse.report import LoadedLinear, SparseReport
from secateur.sparse.tensor_file import DTYPES, read_header
from secateur.sparse.worth import READS_BFLOAT16, worth

OWN_VALUES: Mapping[torch.dtype, Values] = {torch.bfloat16: "bf16"}  # any other type becomes float32
GENERATION = "generation_config.json"
Kernels = Literal["sparse", "dense"]


def load(
    directory: str | Path,
    *,
    values: Values | None = None,
    dtype: torch.dtype = torch.float32,
    kernels: Kernels = "sparse",
) -> Any:
    """Open a checkpoint as a transformers model (of the class that config.json names) on the CPU.

    `directory`: an ordinary pruned checkpoint, which is packed on the way; one with `sparse/` beside it, or a
    packed directory itself. `values`: the type of packed values; that of the files by default, which for an
    ordinary checkpoint is bf16 where it stores bfloat16, else float32. `dtype`: the type of activations, and
    of the weights that stay dense. `kernels`: `dense` gives the same linears kernels of the same make that
    read zeros like other values, to compare with.

    A linear becomes sparse where that was measured to be faster. A head that stays dense is read in bfloat16
    where that holds its weights to the bit and the kernels are faster so. `model.sparse_report` tells what
    became sparse, and why the others did not. Raises SparseError for a directory that cannot be used.
    """
    from transformers import AutoConfig, GenerationConfig

    directory = Path(directory)
    packed = packed_directory(directory)
    opened = packed or directory
    weight_files(opened)  # says what is no checkpoint, before transformers looks for one
    try:
        config = AutoConfig.from_pretrained(opened, local_files_only=True)
    except (OSError, ValueError) as error:
        raise SparseError(f"transformers cannot read config.json in {opened}: {error}") from error
    if packed and hasattr(config, "transformers_weights"):
        del config.transformers_weights  # it keeps transformers away from packed weights (directories.py)
    with ExitStack() as stack:
        stored = _packed_tensors(opened) if packed else _dense_tensors(opened, stack)
        plan = _plan(config, stored, values)
        standing = {
            name: _Empty(one, dtype) if name in plan.sparse else _Later(one) for name, one in stored.items()
        }
        model = plan.model_class.from_pretrained(None, config=config, state_dict=standing, dtype=dtype)
        for name, linear in plan.sparse.items():
            replaced = model.get_submodule(linear)
            assert isinstance(replaced, nn.Linear)
            bias = None if replaced.bias is None else replaced.bias.detach()
            model.set_submodule(linear, _made(stored[name], plan.values[name], bias, kernels).eval())
    if (opened / GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(opened, local_files_only=True)
    model.config.name_or_path = str(directory)
    model.sparse_report = SparseReport(tuple(plan.linears), narrow_head=_narrowed_head(model))
    return model.eval().requires_grad_(False)


def _narrowed_head(model: Any) -> bool:
    """Put a dense head into bfloat16 if nothing is lost. It is the largest matrix of small models, and every
    generated token reads it once; the embedding that it may share its weight with stays as it is."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or backend() not in READS_BFLOAT16:
        return False
    if not torch.equal(head.weight.bfloat16().to(head.weight.dtype), head.weight):
        return False
    model.set_output_embeddings(DenseLinear.of(head.weight, bias=head.bias).eval())
    return True


def _made(stored: "_Stored", values: Values, bias: Tensor | None, kernels: Kernels) -> nn.Module:
    if kernels == "dense":
        return DenseLinear.of(stored.dense(), values=TYPES[values], bias=bias)
    return SparseLinear.of(stored.packed(values), bias)


class _Stored:
    """A tensor that lies in a file. `kept`: the values of a matrix that is packed there, else None."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    kept: Values | None

    def dense(self) -> Tensor:
        """The tensor, as the ordinary checkpoint has it."""
        raise NotImplementedError

    def density(self) -> float:
        """The share of its values that are not zero."""
        raise NotImplementedError

    def packed(self, values: Values) -> Packed:
        """The matrix in packed form, with values of this type."""
        return pack(self.dense(), values=TYPES[values])


class _InOrdinaryFile(_Stored):
    def __init__(self, name: str, tensors: Any) -> None:
        self._name, self._tensors = name, tensors
        described = tensors.get_slice(name)
        self.shape, self.dtype = tuple(described.get_shape()), DTYPES[described.get_dtype()]
        self.kept = None

    def dense(self) -> Tensor:
        found: Tensor = self._tensors.get_tensor(self._name)
        return found

    def density(self) -> float:
        tensor = self.dense()
        return value_count(tensor) / tensor.numel()


class _InPackedFile(_Stored):
    def __init__(self, name: str, file: SparseFile) -> None:
        self._name, self._file = name, file
        described = file.dense.tensors[name]
        self.shape, self.dtype = described.shape, DTYPES[described.dtype]
        self.kept = file.values if name in file.packed_names else None

    def dense(self) -> Tensor:
        return self._file.tensor(self._name)

    def density(self) -> float:
        if self.kept is None:
            return 1.0
        rows, columns = self.shape
        return self._file.packed(self._name).values.numel() / (rows * columns)

    def packed(self, values: Values) -> Packed:
        if values == self.kept:
            return self._file.packed(self._name)
        return super().packed(values)


def _dense_tensors(directory: Path, stack: ExitStack) -> dict[str, _Stored]:
    found: dict[str, _Stored] = {}
    for name in weight_files(directory):
        read_header(directory / name)  # says what is wrong with a file that is cut
        tensors = stack.enter_context(safe_open(directory / name, framework="pt"))
        found |= {one: _InOrdinaryFile(one, tensors) for one in tensors.keys()}  # noqa: SIM118 - no mapping
    return found


def _packed_tensors(directory: Path) -> dict[str, _Stored]:
    files = [SparseFile(directory / name) for name in weight_files(directory)]
    return {name: _InPackedFile(name, file) for file in files for name in file.dense.tensors}


class _Later:
    """What transformers takes for a tensor of a safetensors file: it is read when it is sliced."""

    def __init__(self, stored: _Stored) -> None:
        self._stored = stored

    def __getitem__(self, where: EllipsisType) -> Tensor:
        return self._stored.dense()[where]


class _Empty:
    """The stand-in of a dense weight that is never made: one zero that has its shape."""

    def __init__(self, stored: _Stored, dtype: torch.dtype) -> None:
        self._shape, self._dtype = stored.shape, dtype

    def __getitem__(self, where: EllipsisType) -> Tensor:
        return torch.zeros(1, dtype=self._dtype).expand(self._shape)[where]


@dataclass
class _Plan:
    """What becomes sparse. `sparse`: name of a stored weight → its module. `values`: the types of values."""

    model_class: Any
    sparse: dict[str, str] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)
    linears: list[LoadedLinear] = field(default_factory=list)


def _plan(config: Any, stored: Mapping[str, _Stored], values: Values | None) -> _Plan:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    empty.tie_weights()
    plan = _Plan(type(empty))
    for linear, module in _matrices(empty):
        name = _stored_name(f"{linear}.weight", empty.base_model_prefix, stored)
        why = _unfit(empty, linear, module)
        if name is None or why is not None:
            plan.linears.append(
                LoadedLinear(linear, (), None, None, why or "its weight has another name on disk")
            )
            continue
        one = stored[name]
        density = one.density()
        rows, columns = one.shape
        if not worth(density, backend()):
            why = f"with {1 - density:.0%} zeros the dense product is as fast (kernels: {backend()})"
            plan.linears.append(LoadedLinear(linear, (rows, columns), density, None, why))
            continue
        chosen = values or one.kept or OWN_VALUES.get(one.dtype, "float32")
        plan.sparse[name], plan.values[name] = linear, chosen
        plan.linears.append(LoadedLinear(linear, (rows, columns), density, chosen, None))
    return plan


def _matrices(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """All modules that multiply by a matrix or by those of experts, and are no embeddings."""
    for name, module in model.named_modules():
        own = [parameter for parameter in module._parameters.values() if parameter is not None]
        if any(parameter.dim() >= 2 for parameter in own) and not isinstance(module, nn.Embedding):
            yield name, module


def _unfit(model: Any, name: str, module: nn.Module) -> str | None:
    """Why a module stays dense whatever its zeros are, or None."""
    if not isinstance(module, nn.Linear):
        return f"{type(module).__name__} is no plain linear"
    sharing = [
        other for other, weight in model.named_parameters(remove_duplicate=False) if weight is module.weight
    ]
    if len(sharing) > 1:
        return "it shares its weight with the embedding"
    return None


def _stored_name(name: str, prefix: str, stored: Mapping[str, _Stored]) -> str | None:
    """The name under which a parameter lies in the files, with the prefix of the base model or without."""
    for one in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"):
        if one in stored:
            return one
    return None
