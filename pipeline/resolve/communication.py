"""The rule by which training on GPUs sizes what DeepSpeed sends between workers.

A bucket holds the gradients, or at ZeRO stage 3 the weights, of one block: while one block is computed, those
of its neighbour are on their way. A bucket is never below LEAST weights, where the start of a transfer takes
longer than the transfer, and never above MOST, DeepSpeed's own default, where it would only take memory.
Transfers overlap with computing where there is more than one worker.
"""

from dataclasses import dataclass

LEAST, MOST = 5_000_000, 500_000_000


def bucket_of(block: int) -> int:
    """The weights in a bucket, for a model whose blocks have `block` weights."""
    return min(max(block, LEAST), MOST)


@dataclass(frozen=True)
class Communication:
    """What training sends between `workers` GPUs at a time: `bucket` weights. `overlaps`: while it
    computes."""

    bucket: int
    overlaps: bool

    def zero(self, stage: int) -> dict[str, object]:
        """The fields of DeepSpeed's `zero_optimization`."""
        fields: dict[str, object] = {"overlap_comm": self.overlaps, "reduce_bucket_size": self.bucket}
        if stage == 3:
            return {**fields, "stage3_prefetch_bucket_size": self.bucket}
        return {**fields, "allgather_bucket_size": self.bucket}

    def sentence(self) -> str:
        """What a note says of it."""
        overlapping = "overlap with computing" if self.overlaps else "do not overlap: one worker"
        return f"buckets of {self.bucket / 1e6:.0f}M weights, about one block; transfers {overlapping}"


def communication(*, parameters: int, blocks: int, workers: int) -> Communication:
    """The communication of a model with so many parameters and blocks."""
    return Communication(bucket=bucket_of(-(-parameters // blocks)), overlaps=workers > 1)
