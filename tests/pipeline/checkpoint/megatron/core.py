"""The real megatron-core on CPUs, as one rank of a tensor-parallel group, which builds, saves, loads and runs
models.

Only the processes of ranks.py import this file. Its shims are for tests only: megatron-core requires CUDA
where any device would do.

Shape legend: B sequences, L tokens, V padded vocabulary.
"""

import queue
import threading
import types
import warnings
from argparse import Namespace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

warnings.simplefilter("ignore")  # megatron-core warns about packages that are not installed

from megatron.core import dist_checkpointing, parallel_state  # noqa: E402
from megatron.core.dist_checkpointing.strategies import filesystem_async  # noqa: E402
from megatron.core.dist_checkpointing.validation import StrictHandling  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.safe_globals import register_safe_globals  # noqa: E402
from megatron.core.tensor_parallel.random import initialize_rng_tracker  # noqa: E402
from megatron.core.transformer import TransformerConfig  # noqa: E402
from megatron.core.transformer.enums import AttnBackend  # noqa: E402


def serve(rank: int, size: int, store: str, pipe: Connection) -> None:
    """Answer calls (name of a function of this file, its arguments) until a call is None."""
    torch.set_num_threads(1)
    _on_cpu()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=600)
    )
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=size)
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        name, arguments = asked
        try:
            pipe.send((True, globals()[name](**arguments)))
        except Exception as error:  # noqa: BLE001 - the test is told
            pipe.send((False, f"{type(error).__name__}: {error}"))
    torch.distributed.destroy_process_group()


def save(*, args: dict[str, Any], directory: str, seed: int, layout: str, sharding: dict[str, bool]) -> None:
    """Save a random model as Megatron-LM does: `torch_dist` or `mp_rank`. `sharding`: options for the keys of
    torch_dist."""
    known = Namespace(**args, tensor_model_parallel_size=_size())
    common = {"args": known, "checkpoint_version": 3.0, "iteration": 7}
    model = _model(known, seed=seed)
    known.attention_backend = AttnBackend.local  # one of the classes that real args carry
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    if layout == "torch_dist":
        dist_checkpointing.save({"model": model.sharded_state_dict(metadata=sharding), **common}, directory)
        return
    folder = path / f"mp_rank_{torch.distributed.get_rank():02d}"
    folder.mkdir()
    optimizer = {"state": {0: {"exp_avg": torch.zeros(4)}}, "rng": np.random.RandomState(0).get_state()}
    torch.save({"model": model.state_dict(), "optimizer": optimizer, **common}, folder / "model_optim_rng.pt")
    torch.distributed.barrier()


def load(*, directory: str, layout: str, tokens: list[list[int]]) -> NDArray[np.float32]:
    """Logits [B, L, V] of a checkpoint by a model made from its args, which must use every tensor."""
    path, rank = Path(directory), torch.distributed.get_rank()
    own = path / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
    stored = torch.load(path / "common.pt" if layout == "torch_dist" else own, weights_only=True)
    assert stored["args"].tensor_model_parallel_size == _size()
    assert stored["checkpoint_version"] == 3.0
    model = _model(stored["args"], seed=99)
    if layout == "torch_dist":
        wanted = {"model": model.sharded_state_dict()}
        state = dist_checkpointing.load(wanted, directory, strict=StrictHandling.RAISE_ALL)["model"]
    else:
        state = stored["model"]
    model.load_state_dict(state, strict=True)
    return _logits(model, tokens)


def logits(*, args: dict[str, Any], seed: int, tokens: list[list[int]]) -> NDArray[np.float32]:
    """Logits [B, L, V] of the random model that `save` saves."""
    return _logits(_model(Namespace(**args, tensor_model_parallel_size=_size()), seed=seed), tokens)


def _size() -> int:
    return torch.distributed.get_world_size()


def _on_cpu() -> None:
    register_safe_globals()  # as Megatron-LM does when it starts
    filesystem_async.mp = types.SimpleNamespace(get_context=lambda kind: _Threads())
    ones = torch.ones
    torch.ones = lambda *size, device=None, **rest: ones(  # type: ignore[assignment]
        *size, device=None if device == "cuda" else device, **rest
    )  # masks of windows are made on CUDA
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.empty_cache = lambda: None
    initialize_rng_tracker(inference_rng_tracker=True)


class _Threads:
    """Threads that replace the processes that megatron-core forks to write files, as such forks may hang."""

    Process = threading.Thread
    Queue = JoinableQueue = queue.Queue

    def Manager(self) -> types.ModuleType:
        return queue


def _model(args: Namespace, *, seed: int) -> GPTModel:
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
    with torch.no_grad():  # norms and biases are ones and zeros at first, which would hide errors
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


def _logits(model: GPTModel, tokens: list[list[int]]) -> NDArray[np.float32]:
    tokens_BL = torch.tensor(tokens)
    length = tokens_BL.shape[1]
    masked_LL = torch.ones(length, length, dtype=torch.bool).triu(1)  # True is hidden, as Megatron has it
    with torch.no_grad():
        found: torch.Tensor = model(
            input_ids=tokens_BL,
            position_ids=torch.arange(length).expand_as(tokens_BL),
            attention_mask=masked_LL[None, None],
        )
    return found.numpy()
