"""The device of a run of gpu.py, and what its sections share: clocks, memory, and random checkpoints."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.artifacts.refs import CheckpointRef
from pipeline.storage.content import ContentStore
from tests.checkpoints import imported

VOCABULARY = 32000


class Skipped(Exception):
    """A section that this device cannot run, with the reason."""


@dataclass(frozen=True)
class Setting:
    """`device`: cuda or cpu. `quick`: sizes that a CPU computes in seconds, on which figures mean nothing."""

    device: torch.device
    quick: bool

    @property
    def on_gpu(self) -> bool:
        """True if there are kernels to wait for."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """The type in which models run."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    def needs_gpu(self, what: str) -> None:
        """Raise Skipped on a CPU."""
        if not self.on_gpu:
            raise Skipped(f"{what} needs a CUDA device")

    def seconds(self, work: Callable[[], object], *, times: int = 1) -> float:
        """The mean seconds of `work`, after one run that is not counted."""
        work()
        self.wait()
        started = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return (time.perf_counter() - started) / times

    def once(self, work: Callable[[], object]) -> float:
        """The seconds of one run of `work`."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Wait for all kernels."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        """Give cached memory back, and restart the peak."""
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """The most bytes of tensors on the device since the last reset; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() if self.on_gpu else 0


def llama(
    hidden: int,
    inner: int,
    heads: int,
    *,
    blocks: int,
    key_value: int | None = None,
    vocabulary: int = VOCABULARY,
) -> LlamaConfig:
    """The config of a Llama of these sizes."""
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=key_value or heads,
        num_hidden_layers=blocks,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )


@contextmanager
def stored_model(config: LlamaConfig, setting: Setting) -> Iterator[tuple[ContentStore, CheckpointRef]]:
    """A random checkpoint in bfloat16, imported into a local store, as a job would have it. Both are deleted
    at the end."""
    with tempfile.TemporaryDirectory(prefix="secateur-bench-", dir=os.environ.get("TMPDIR")) as name:
        directory = Path(name) / "model"
        with torch.device(setting.device):
            model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(directory)
        del model
        setting.reset_peak()
        yield imported(directory, Path(name) / "store")


def tokens(count: int, length: int, *, vocabulary: int = VOCABULARY) -> list[torch.Tensor]:
    """Random sequences of tokens."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocabulary, (length,), generator=generator) for _ in range(count)]
