"""The weights of a checkpoint that may be pruned."""

import math

import torch

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.paired_stream import open_stream
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.spec.sparsity_plan import Weights
from pipeline.storage.content import ContentStore


def prunable_weights(content: ContentStore, checkpoint: CheckpointRef) -> Weights:
    """Returns the number of weights of every prunable linear, per block, in the order in which the linears
    run."""
    reader = CheckpointReader(content, checkpoint)
    stream = open_stream(reader, dtype=torch.float32, device=torch.device("cpu"))
    weights = []
    for block in range(stream.num_blocks):
        names = stream.block_tensors(block)
        linears = [name for group in stream.groups(block) for name in group]
        weights.append(
            {name: math.prod(reader.index.tensors[names[f"{name}.weight"]].shape) for name in linears}
        )
    return weights
