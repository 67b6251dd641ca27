"""Calibration samples in the form in which crews take them."""

import torch
from safetensors.torch import load
from torch import Tensor

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import SamplesRef
from pipeline.checkpoint.writer import put_tensors
from pipeline.storage.content import ContentStore
from workers.context import StageContext


def put_samples(content: ContentStore, tokens_NL: Tensor) -> SamplesRef:
    """Store calibration samples, int64 [N samples, L tokens]."""
    file, _ = put_tensors(content, SamplesRef.TOKENS, {"tokens": tokens_NL.to(torch.int64)})
    return SamplesRef(files=(FileRef(path=SamplesRef.TOKENS, blob=file.blob),))


def load_samples(context: StageContext) -> list[Tensor]:
    """Read the samples of the input `samples`, one tensor [L] each."""
    return list(load(context.read("samples", SamplesRef.TOKENS))["tokens"])
