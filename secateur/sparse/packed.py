"""A sparse weight as bits, which tell where it has values, and the values row by row.

R rows (out_features), C columns (in_features), N values, G groups of columns with a scale each.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 64  # columns that a kernel takes at a time; a group is a multiple of it
GROUP = 128  # columns that share a scale where nothing else is asked for
VALUE_TYPES = (torch.float32, torch.bfloat16, torch.int8)
_WEIGHT_TYPES = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
_LARGEST = 127


@dataclass(frozen=True, eq=False)
class Packed:
    """One weight [R, C] in the form of the files and of the kernels.

    Raises ValueError where the parts do not fit each other. The kernels rely on this check, because they
    follow the bits through the memory of the values.
    """

    shape: tuple[int, int]
    bits: Tensor
    """uint8 [R, ceil(C / 8)]: bit j % 8 of byte j // 8, the least significant first, tells whether column j
    has a value. The bits after the last column are 0."""
    values: Tensor
    """float32, bfloat16 or int8 [N]: the values of row 0 by column, then those of row 1, and so on."""
    scales: Tensor | None = None
    """float32 [R, G] where the values are int8, else None: what the values of a group are multiplied by."""
    group: int | None = None
    """The columns of a group where there are scales: a multiple of 64. The last group may be shorter."""

    def __post_init__(self) -> None:
        rows, columns = self.shape
        if rows < 1 or columns < 1:
            raise ValueError(f"a weight of shape {self.shape} cannot be packed: it has no elements")
        _expect("bits", self.bits, (torch.uint8,), (rows, -(-columns // 8)))
        if self.values.ndim != 1:
            raise ValueError(f"values has {self.values.ndim} dimensions, and needs one")
        _expect("values", self.values, VALUE_TYPES, (self.values.shape[0],))
        if self.values.dtype == torch.int8:
            if self.scales is None or self.group is None:
                raise ValueError("int8 values need scales and the columns of a group")
            _expect("scales", self.scales, (torch.float32,), (rows, -(-columns // _checked(self.group))))
        elif self.scales is not None or self.group is not None:
            raise ValueError(
                f"values of {self.values.dtype} have no scales and no groups: only int8 has them"
            )
        if columns % 8 and bool((self.bits[:, -1] >> (columns % 8)).any()):
            raise ValueError(f"bits are set after the last column, {columns - 1}")
        count = int(self.counts().sum())
        if count != self.values.shape[0]:
            raise ValueError(f"{count} bits are set, but there are {self.values.shape[0]} values")

    @property
    def density(self) -> float:
        """The share of the weight's elements that have a value."""
        return self.values.shape[0] / (self.shape[0] * self.shape[1])

    @property
    def nbytes(self) -> int:
        """The bytes of bits, values and scales together."""
        parts = [self.bits, self.values, *([] if self.scales is None else [self.scales])]
        return sum(part.nbytes for part in parts)

    def counts(self) -> Tensor:
        """The number of values of each row: int64 [R]."""
        return torch.from_numpy(np.bitwise_count(self.bits.numpy()).sum(axis=1, dtype=np.int64))

    def dense(self) -> Tensor:
        """The weight [R, C] in the type of the values, or in float32 where they are int8."""
        return dense(self.bits, self.values, scales=self.scales, group=self.group, columns=self.shape[1])


def pack(weight: Tensor, *, values: torch.dtype = torch.bfloat16, group: int | None = None) -> Packed:
    """Packs a weight [R, C] of float32, bfloat16 or float16 on the CPU.

    An element has a value when its bits are not those of +0, so -0.0 and NaN stay. Where the type of `values`
    holds every number of the weight's type, `dense()` gives the weight back to the bit. int8 holds
    round(w / scale), where the scale of `group` columns of a row (128 if None) is their largest |w| / 127.

    Raises ValueError for another type or shape, and for int8 where the weight has NaN or infinity.
    """
    if weight.ndim != 2 or weight.dtype not in _WEIGHT_TYPES or weight.device.type != "cpu":
        raise ValueError(
            f"a weight of {weight.dtype} {tuple(weight.shape)} on {weight.device} cannot be packed: it must "
            "be float32, bfloat16 or float16, have two dimensions, and lie on the CPU"
        )
    if values not in VALUE_TYPES:
        raise ValueError(f"values={values} is not known; use float32, bfloat16 or int8 of torch")
    if group is not None and values != torch.int8:
        raise ValueError(f"group={group} is for int8 values; leave it out for {values}")
    weight = weight.detach().contiguous()
    kept = weight.view(_WEIGHT_TYPES[weight.dtype]) != 0
    bits = torch.from_numpy(np.packbits(kept.numpy(), axis=1, bitorder="little"))
    shape = (weight.shape[0], weight.shape[1])
    if values != torch.int8:
        return Packed(shape, bits, weight[kept].to(values))
    group = _checked(GROUP if group is None else group)
    whole, scales = quantized(weight.float(), group)
    return Packed(shape, bits, whole[kept], scales, group)


def dense(bits: Tensor, values: Tensor, *, scales: Tensor | None, group: int | None, columns: int) -> Tensor:
    """The weight [R, C] of these parts of a Packed; `values` may be longer than the bits need."""
    kept = torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, count=columns, bitorder="little")).bool()
    weight = torch.zeros(kept.shape, dtype=values.dtype)
    weight[kept] = values[: int(kept.sum())]
    if scales is None or group is None:
        return weight
    return weight.float() * scales.repeat_interleave(group, dim=1)[:, :columns]


def quantized(weight_RC: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """The weight as int8 [R, C], and its scales [R, G]."""
    if not bool(weight_RC.isfinite().all()):
        raise ValueError("the weight has NaN or infinity, which int8 values cannot hold; use a float type")
    rows, columns = weight_RC.shape
    groups = -(-columns // group)
    largest = torch.nn.functional.pad(weight_RC.abs(), (0, groups * group - columns))
    scales = largest.view(rows, groups, group).amax(dim=2) / _LARGEST
    wide = scales.repeat_interleave(group, dim=1)[:, :columns]
    # The scale of a group of zeros, or of the smallest denormals, is 0: its values are 0.
    whole = torch.where(wide > 0, weight_RC / wide, 0).round().clamp(-_LARGEST, _LARGEST)
    return whole.to(torch.int8), scales


def _checked(group: int) -> int:
    if group < BLOCK or group % BLOCK:
        raise ValueError(f"group={group} must be a positive multiple of {BLOCK}, for example {GROUP}")
    return group


def _expect(name: str, found: Tensor, types: tuple[torch.dtype, ...], shape: tuple[int, ...]) -> None:
    if found.dtype not in types or tuple(found.shape) != shape or found.device.type != "cpu":
        allowed = " or ".join(str(one) for one in types)
        raise ValueError(
            f"{name} is {found.dtype} {tuple(found.shape)} on {found.device}; it must be {allowed} {shape} "
            "on the CPU"
        )
