"""The logits of a checkpoint with one of its blocks in memory at a time.

Shape legend: L tokens, V vocabulary.
"""

import torch
from torch import Tensor

from pipeline.checkpoint.paired_stream import open_stream
from pipeline.checkpoint.reader import CheckpointReader


def streamed_logits(reader: CheckpointReader, tokens_L: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Returns the logits [L, V] of one sequence, computed on the CPU in `dtype`. Raises UnsupportedCheckpoint
    when a token has no row in the embedding."""
    stream = open_stream(reader, dtype=dtype, device=torch.device("cpu"))
    with torch.no_grad():
        (hidden_1LH,) = stream.embed([tokens_L])
        for block in range(stream.num_blocks):
            names = stream.block_tensors(block)
            stream.load(block, {name: reader.tensor(disk) for name, disk in names.items()})
            hidden_1LH = stream.run(block, hidden_1LH)
            stream.release(block)
        stream.load_head()
        return stream.logits(tokens_L, hidden_1LH)
