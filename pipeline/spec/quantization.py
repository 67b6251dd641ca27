"""The part of a spec that says in which forms the result is quantized."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec

QUANTIZED_FOLDER = "quantized"  # in the published directory; each form has a folder of its own below
Integers = Literal["int4", "int8"]
GroupSize = Literal[32, 64, 128]


class _Form(Frozen, ABC):
    """One form of the result, whose zeros are zeros of the pruned model."""

    file_format: ClassVar[Literal["compressed-tensors", "gguf"]] = "compressed-tensors"

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the form's folder, and of its rows in tables."""


class _IntegerForm(_Form):
    """Integers of 4 or 8 bits, symmetric about zero. `group_size`: the number of neighbouring weights of a
    row that share a scale; with null, all weights of the row share one."""

    weights: Integers = "int4"
    group_size: GroupSize | None = 128

    @property
    def bits(self) -> int:
        """The bits of a weight without its scale."""
        return 4 if self.weights == "int4" else 8


class Gptq(_IntegerForm):
    """Column by column, the weights to the right compensate the rounding of a weight, as calibration samples
    show that they can (Frantar et al., arXiv 2210.17323)."""

    kind: Literal["gptq"] = "gptq"
    damping: float = Field(
        default=0.1, gt=0, le=10, description="Added to the Hessian, as a fraction of its mean diagonal."
    )

    @property
    def name(self) -> str:
        """For example `gptq-int4-g128`."""
        return f"{self.kind}-{self.weights}-{_scales(self.group_size)}"


class Rtn(_IntegerForm):
    """Each weight is rounded to the nearest integer by itself, without calibration."""

    kind: Literal["rtn"] = "rtn"

    @property
    def name(self) -> str:
        """For example `rtn-int8-channel`."""
        return f"{self.kind}-{self.weights}-{_scales(self.group_size)}"


class Fp8(_Form):
    """Floating-point numbers of 8 bits (E4M3). `scales`: one for each row of a matrix (an output channel), or
    one for the matrix."""

    kind: Literal["fp8"] = "fp8"
    scales: Literal["channel", "tensor"] = "channel"

    @property
    def name(self) -> str:
        """`fp8-channel` or `fp8-tensor`."""
        return f"{self.kind}-{self.scales}"


class Gguf(_Form):
    """A GGUF file. Q8_0 and Q4_0 have a scale for every 32 weights of a row, BF16 has none."""

    file_format: ClassVar[Literal["compressed-tensors", "gguf"]] = "gguf"
    kind: Literal["gguf"] = "gguf"
    weights: Literal["Q8_0", "Q4_0", "BF16"] = "Q8_0"

    @property
    def name(self) -> str:
        """For example `gguf-q8_0`."""
        return f"{self.kind}-{self.weights.lower()}"


Quantization = Annotated[Gptq | Rtn | Fp8 | Gguf, Field(discriminator="kind")]


def check_groups(group_size: int | None, in_features: int, *, field: str = "spec.quantize") -> None:
    """Raise InvalidSpec, which names what would fit, unless the rows of a linear divide into groups."""
    if group_size is None or in_features % group_size == 0:
        return
    fits = [str(size) for size in (128, 64, 32) if in_features % size == 0]
    others = f"{' or '.join(fits)}, or null" if fits else "null"
    raise InvalidSpec(
        f"group_size {group_size} does not divide the {in_features} weights of a row of one of the model's "
        f"linears; use {others} (one scale for each row)",
        field,
    )


def _scales(group_size: int | None) -> str:
    return "channel" if group_size is None else f"g{group_size}"


def _listed(value: object) -> object:
    """One form may be written without a list, and null is none."""
    if value is None:
        return ()
    return (value,) if isinstance(value, Mapping | _Form) else value


def _different(forms: tuple[Quantization, ...]) -> tuple[Quantization, ...]:
    names = [form.name for form in forms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is asked for twice; forms differ in kind, weights or scales")
    return forms


Quantizations = Annotated[
    tuple[Quantization, ...],
    BeforeValidator(_listed, json_schema_input_type=Quantization | tuple[Quantization, ...] | None),
    AfterValidator(_different),
    Field(max_length=8),
]
