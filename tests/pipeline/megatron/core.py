"""The real megatron-core on CPUs: one rank of a tensor-parallel group that builds models, saves, loads, runs.

Shims are for tests only: megatron-core asks for CUDA where any device would do.

Shape legend: B sequences, L tokens, V padded vocabulary.
"""

import argparse
import contextlib
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

RANKS = 2
START_SECONDS = 300


def rank_main(rank: int, store: str, pipe: Connection) -> None:
    """Answer calls (name of a function of this file, its arguments) until None comes."""
    warnings.simplefilter("ignore")  # of the process that is Megatron's alone
    torch.set_num_threads(1)
    _on_cpu()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        name, arguments = asked
        try:
            pipe.send((True, globals()[name](**arguments)))
        except Exception as error:  # noqa: BLE001 - the test is told
            pipe.send((False, f"{type(error).__name__}: {error}"))
    torch.distributed.destroy_process_group()


class Ranks:
    """Two processes with megatron-core, which are one group of two or two of one."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def call(self, name: str, **arguments: object) -> Any:
        """Call a function below on both; the first rank's answer. Raises what either raised."""
        for pipe in self._pipes:
            pipe.send((name, arguments))
        answers = [pipe.recv() for pipe in self._pipes]
        for fine, answer in answers:
            if not fine:
                raise RuntimeError(answer)
        return answers[0][1]


@contextlib.contextmanager
def started(directory: Path) -> Iterator[Ranks]:
    """The two processes, ended afterwards. `directory`: where they find each other."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(RANKS):
        ours, theirs = context.Pipe()
        process = context.Process(target=rank_main, args=(rank, str(directory / "rendezvous"), theirs))
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        for pipe in pipes:
            assert pipe.poll(START_SECONDS), "megatron-core did not start"
            assert pipe.recv() == "ready"
        yield Ranks(pipes)
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(30)
    finally:
        for process in processes:
            process.kill()
            process.join()


def save(*, args: dict[str, Any], directory: str, seed: int, layout: str, sharding: dict[str, bool]) -> None:
    """Save a random model as Megatron-LM does: `torch_dist` or `mp_rank`. `sharding`: how keys of torch_dist
    are made."""
    model = _model(argparse.Namespace(**args), seed=seed)
    _save(model, argparse.Namespace(**args), Path(directory), layout=layout, sharding=sharding)


def load(*, directory: str, tensor_parallel: int, layout: str, tokens_BL: torch.Tensor) -> torch.Tensor:
    """Logits [B, L, V] of a checkpoint by a model made from its args, which must use every tensor."""
    path = Path(directory)
    rank = torch.distributed.get_rank() % tensor_parallel
    file = (
        path / "common.pt" if layout == "torch_dist" else path / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
    )
    stored = torch.load(file, weights_only=True)
    args = stored["args"]
    if layout == "mp_rank":
        assert args.tensor_model_parallel_size == tensor_parallel
    args.tensor_model_parallel_size = tensor_parallel
    model = _model(args, seed=99)
    if layout == "torch_dist":
        from megatron.core import dist_checkpointing
        from megatron.core.dist_checkpointing.validation import StrictHandling

        wanted = {"model": model.sharded_state_dict()}
        loaded = dist_checkpointing.load(wanted, directory, strict=StrictHandling.RAISE_ALL)
        assert stored["checkpoint_version"] == loaded["checkpoint_version"] == 3.0
        model.load_state_dict(loaded["model"], strict=True)
    else:
        model.load_state_dict(stored["model"], strict=True)
    return _logits(model, tokens_BL)


def logits(*, args: dict[str, Any], seed: int, tokens_BL: torch.Tensor) -> torch.Tensor:
    """Logits [B, L, V] of the random model that `save` saves."""
    return _logits(_model(argparse.Namespace(**args), seed=seed), tokens_BL)


def _on_cpu() -> None:
    from megatron.core.safe_globals import register_safe_globals
    from megatron.core.tensor_parallel.random import initialize_rng_tracker

    register_safe_globals()  # as Megatron-LM does when it starts
    ones = torch.ones
    torch.ones = lambda *size, device=None, **rest: ones(  # type: ignore[assignment]
        *size, device=None if device == "cuda" else device, **rest
    )  # masks of windows are made on CUDA
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.empty_cache = lambda: None
    initialize_rng_tracker(inference_rng_tracker=True)


def _model(args: argparse.Namespace, *, seed: int) -> Any:
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=args.tensor_model_parallel_size)
    torch.manual_seed(seed)
    config = TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups,
        ffn_hidden_size=args.ffn_hidden_size,
        kv_channels=args.kv_channels,
        layernorm_epsilon=args.norm_epsilon,
        add_bias_linear=args.add_bias_linear,
        add_qkv_bias=args.add_qkv_bias,
        qk_layernorm=args.qk_layernorm,
        window_size=args.window_size,
        window_attn_skip_freq=args.window_attn_skip_freq,
        normalization=args.normalization,
        gated_linear_unit=args.swiglu,
        activation_func=torch.nn.functional.silu,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        init_method_std=0.1,  # as small as the default, all logits are equal
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
    )
    model = GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(
            qk_layernorm=args.qk_layernorm, normalization=args.normalization
        ),
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        parallel_output=False,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type=args.position_embedding_type,
        rotary_percent=args.rotary_percent,
        rotary_base=args.rotary_base,
        rope_scaling=args.use_rope_scaling,
        rope_scaling_factor=args.rope_scaling_factor,
    )
    with torch.no_grad():  # norms and biases begin as ones and zeros, which would prove nothing
        torch.manual_seed(seed + 1)  # the same on every rank: replicated parameters must agree
        for parameter in model.parameters():
            if parameter.dim() == 1 and not _is_split(parameter):
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif parameter.dim() == 1:
                whole = 0.2 * torch.randn(len(parameter) * args.tensor_model_parallel_size)
                rank = parallel_state.get_tensor_model_parallel_rank()
                parameter.copy_(whole.chunk(args.tensor_model_parallel_size)[rank])
    return model.eval()


def _is_split(parameter: torch.Tensor) -> bool:
    return bool(getattr(parameter, "tensor_model_parallel", False))


def _save(
    model: Any, args: argparse.Namespace, directory: Path, *, layout: str, sharding: dict[str, bool]
) -> None:
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.transformer.enums import AttnBackend

    args.attention_backend = AttnBackend.local  # one of the classes that real args carry
    common = {"args": args, "checkpoint_version": 3.0, "iteration": 7}
    directory.mkdir(parents=True, exist_ok=True)
    if layout == "torch_dist":
        dist_checkpointing.save(
            {"model": model.sharded_state_dict(metadata=sharding), **common}, str(directory)
        )
        return
    if parallel_state.get_data_parallel_rank() == 0:
        folder = directory / f"mp_rank_{parallel_state.get_tensor_model_parallel_rank():02d}"
        folder.mkdir()
        optimizer = {"state": {0: {"exp_avg": torch.zeros(4)}}}
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer, **common}, folder / "model_optim_rng.pt"
        )
    torch.distributed.barrier()


def _logits(model: Any, tokens_BL: torch.Tensor) -> torch.Tensor:
    length = tokens_BL.shape[1]
    masked_LL = torch.ones(length, length, dtype=torch.bool).triu(1)  # True is hidden, as Megatron has it
    with torch.no_grad():
        return model(
            input_ids=tokens_BL,
            position_ids=torch.arange(length).expand_as(tokens_BL),
            attention_mask=masked_LL[None, None],
        )


def environment() -> None:
    """What children need to find megatron-core's own imports quiet."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
