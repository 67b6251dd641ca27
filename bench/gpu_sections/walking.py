"""Walks over the blocks of wide random models, as a job makes them: read, measured, pruned and stored."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import LlamaConfig

from gpu_sections.setting import Setting, llama, stored_model, tokens
from pipeline.allocations.uniform import Uniform
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.pruning import Pruning, prune_blocks
from pipeline.blocks.steps import run_through
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.methods import OneShot
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.planning.machine import cpus, gpu_of
from pipeline.planning.place import Place, Samples
from pipeline.planning.pruning import Walk, walk_cost
from pipeline.planning.shape import shape_of
from pipeline.spec.patterns import NM
from pipeline.spec.reconstruction import BlockReconstruction, steps_of
from pipeline.storage.content import ContentStore
from pipeline.storage.progress import StageProgress
from pipeline.structure.sizes import sizes_of

PATTERN = NM(keep=2, group=4)
SAMPLED_EVERY = 0.05  # seconds; the driver's own figure covers about as long


def walk(setting: Setting) -> dict[str, object]:
    """Wanda on a model as wide as 7B: seconds a block, what was expected, the share of the time in which the
    GPU was busy (by the driver, and by the time that the forwards take alone), and the peak."""
    config = (
        llama(64, 128, 4, blocks=2, vocabulary=256) if setting.quick else llama(4096, 11008, 32, blocks=6)
    )
    samples = Samples(4, 32) if setting.quick else Samples(128, 2048)
    return {"blocks": config.num_hidden_layers, **walked(setting, config, samples, Wanda())}


def widest_block(setting: Setting) -> dict[str, object]:
    """SparseGPT on one block as wide as 70B's: its peak beside the expected one."""
    config = (
        llama(64, 192, 8, blocks=1, key_value=2, vocabulary=256)
        if setting.quick
        else llama(8192, 28672, 64, blocks=1, key_value=8, vocabulary=4096)
    )
    return walked(setting, config, Samples(4, 32) if setting.quick else Samples(32, 2048), SparseGPT())


def reconstruction(setting: Setting) -> dict[str, object]:
    """A block as wide as 7B's, fitted after pruning: seconds of a step of 8 samples."""
    config = (
        llama(64, 128, 4, blocks=1, vocabulary=256) if setting.quick else llama(4096, 11008, 32, blocks=1)
    )
    samples = Samples(8, 32) if setting.quick else Samples(32, 2048)
    spec = BlockReconstruction(epochs=1 if setting.quick else 2)
    steps = steps_of(spec, samples=samples.count)
    plain = walked(setting, config, samples, Wanda())
    fitted = walked(setting, config, samples, Wanda(), reconstruction=spec)
    return {"steps": steps, "seconds_of_a_step": (fitted["seconds"] - plain["seconds"]) / steps, **fitted}


def walked(
    setting: Setting,
    config: LlamaConfig,
    samples: Samples,
    method: OneShot,
    *,
    reconstruction: BlockReconstruction | None = None,
) -> dict[str, float]:
    """The figures of one walk. The store keeps blocks and activations, as on a cluster."""
    with stored_model(config, setting) as (content, checkpoint):
        given = tokens(samples.count, samples.length, vocabulary=config.vocab_size)
        crew = LocalCrew(content, checkpoint, given, dtype=setting.dtype, device=setting.device)
        plan = Uniform().plan(PATTERN, prunable_weights(content, checkpoint))
        pruning = Pruning(
            method=method,
            plan=plan,
            propagation="pruned",
            samples=samples.count,
            reconstruction=reconstruction,
        )
        progress = StageProgress(content, "0" * 64)
        setting.reset_peak()
        busy: list[int] = []
        with sampled(busy, setting):
            seconds = setting.once(lambda: run_through(prune_blocks(crew, pruning, progress=progress)))
        forward = alone(setting, content, checkpoint, given)
    row, stated = row_for("llama"), config.to_dict()
    shape = shape_of(row, stated, sizes_of(row, stated))
    place = Place(
        gpu_of(None) if setting.on_gpu else cpus(torch.get_num_threads()), width=setting.dtype.itemsize
    )
    asked = Walk(runs=2, measures=method.needs, method=method, reconstruction=reconstruction)
    expected = walk_cost(shape, samples, place, asked)
    assert expected.seconds is not None
    found = {
        "seconds": seconds,
        "expected_seconds": expected.seconds,
        "seconds_of_a_block": seconds / config.num_hidden_layers,
        "forward_seconds_of_a_block": forward,
        "share_of_forwards": 2 * forward * config.num_hidden_layers / seconds,
        "peak_bytes": float(setting.peak()),
        "expected_peak_bytes": float(expected.gpu or 0),
    }
    return found if not busy else {**found, "gpu_busy": sum(busy) / len(busy) / 100}


def alone(
    setting: Setting, content: ContentStore, checkpoint: CheckpointRef, given: list[torch.Tensor]
) -> float:
    """The seconds in which all samples pass through block 0 once, with nothing else."""
    crew = LocalCrew(content, checkpoint, given, dtype=setting.dtype, device=setting.device)
    worker = crew.workers[0]
    worker.load(0)
    with torch.no_grad():
        worker.advance()
        return setting.once(worker.advance)


@contextmanager
def sampled(busy: list[int], setting: Setting) -> Iterator[None]:
    """Gather in `busy` what the driver says while the body runs: the percentage of time with kernels."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(SAMPLED_EVERY):
            busy.append(torch.cuda.utilization())

    if not setting.on_gpu:
        yield
        return
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
