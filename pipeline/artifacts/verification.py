"""What was checked of a published directory, from the bytes that lie in storage."""

from typing import Literal

from pydantic import Field

from pipeline.artifacts.serving import TargetCheck
from pipeline.canonical import Frozen
from pipeline.spec.publishing import PackedValues


class OpenedTokenizer(Frozen):
    """A tokenizer that was read back. `special`: number of special tokens, each of which was found as one
    token and turned back into its text. `beyond_rows`: those whose ids have no row in the embedding."""

    tokens: int
    special: int
    beyond_rows: tuple[str, ...] = ()


class OpenedLogits(Frozen):
    """The logits of the opened model beside those of the checkpoint, one block at a time, in the same type.

    `tokens`: length of the prompt. `largest_difference` and `tolerance` are shares of the largest logit; 0
    means that all bits are equal.
    """

    tokens: int
    dtype: str
    largest_difference: float
    tolerance: float

    @property
    def words(self) -> str:
        """The outcome in a few words."""
        if self.largest_difference == 0:
            return "logits equal"
        return f"logits equal within {self.largest_difference:.1e}"


class Opened(Frozen):
    """A model that a library opened in a process of its own.

    `weights`: `in_memory`, or `from_disk` where they were larger than the declared memory, so that the
    library fetched each part when it was used. `tensors`: parameters and persistent buffers of the model, all
    of which were in the files. `tied`: True if embedding and head are one tensor. `generated`: number of
    tokens that were generated greedily. `adapter_tensors`: matrices of a LoRA adapter that peft found a place
    for; None where none is published.
    """

    library: Literal["transformers"] = "transformers"
    version: str
    model_class: str
    weights: Literal["in_memory", "from_disk"]
    tensors: int
    tied: bool
    logits: OpenedLogits
    generated: int
    tokenizer: OpenedTokenizer | None
    adapter_tensors: int | None = None


class PackedWeights(Frozen):
    """The packed weights below `sparse/`, all of which were compared with the ordinary ones. `values`: the
    type of their values. `matrices`: how many are packed. `lossless`: True if every bit is equal, else the
    values differ by no more than their type rounds. `bytes`, `ordinary_bytes`: sizes of both."""

    values: PackedValues
    matrices: int
    lossless: bool
    bytes: int
    ordinary_bytes: int


class OpenedForm(Frozen):
    """A quantized form that transformers opened in a process of its own. `logits`: beside those of the
    weights that were read back when the form was written."""

    name: str
    version: str
    model_class: str
    logits: OpenedLogits


class Verification(Frozen):
    """Content of `verification.json`. It has no times: equal jobs with equal memory have equal files.

    `files`, `bytes`: what lies in storage, with the digests that were published. `tensors`, `values`: of the
    weights, all finite. `zeros`: number of weights that must be zero and are. `documents`: files that were
    read and agree with the weights. `remarks`: what is no fault, but worth knowing. `targets`: what the
    targets of the spec found. `packed`: the packed weights, if they were published. `quantized`: the
    quantized forms that were published.
    """

    format: Literal["secateur-verification/1"] = "secateur-verification/1"
    files: int
    bytes: int
    tensors: int
    values: int
    zeros: int
    documents: tuple[str, ...]
    opened: Opened
    remarks: tuple[str, ...] = ()
    # where no target was asked for, the file is that of the time before there were any
    targets: tuple[TargetCheck, ...] = Field(default=(), exclude_if=lambda targets: not targets)
    packed: PackedWeights | None = Field(default=None, exclude_if=lambda packed: packed is None)
    quantized: tuple[OpenedForm, ...] = Field(default=(), exclude_if=lambda forms: not forms)

    @property
    def words(self) -> str:
        """The outcome in one line."""
        names = ", ".join([self.opened.library, *(target.target for target in self.targets)])
        return f"opens in {names}, {self.tensors} tensors, {self.opened.logits.words}"
