"""The student's DeepSpeed engine, and every worker's share of its master weights and optimizer moments.

ZeRO cuts what it partitions into fragments: contiguous pieces of flattened parameters. Fragments carry the
parameter's name, so that one worker under stage 1 can read what two workers under stage 3 have saved, and
zeros are checked without gathering anything. This file alone knows how DeepSpeed keeps them.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from workers.training import ranks

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"


@dataclass(frozen=True)
class Fragment:
    """This worker's piece of one trained parameter: `length` of its flattened elements from `start` on.

    `parts`: views of float32 values by name: the master weights and, once the optimizer has any, its moments.
    `working`: the same piece of the weights that the forward pass uses.
    """

    name: str
    start: int
    length: int
    parts: Mapping[str, Tensor]
    working: Tensor


class Engine:
    """A model under DeepSpeed. Trained parameters require gradients; the others are frozen."""

    def __init__(
        self, model: nn.Module, config: Mapping[str, object], optimizer: Mapping[str, object]
    ) -> None:
        """`optimizer`: arguments of AdamW; `weight_decay` applies to matrices only."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in trained.items()}
        plain = dict(optimizer)
        decay = plain.pop("weight_decay", 0.0)
        matrices = [p for name, p in trained.items() if len(self.shapes[name]) > 1]
        vectors = [p for name, p in trained.items() if len(self.shapes[name]) <= 1]
        groups = [
            {"params": parameters, "weight_decay": decayed}
            for parameters, decayed in ((matrices, decay), (vectors, 0.0))
            if parameters
        ]
        adam = torch.optim.AdamW(groups, **plain)  # type: ignore[arg-type]
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=adam, config=dict(config))
        self._zero = self._engine.optimizer
        self._parameters = trained
        self.device: torch.device = self._engine.device

    @property
    def module(self) -> nn.Module:
        """The model, for forward passes without gradients."""
        return self._engine.module

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters by name."""
        return self._parameters

    def forward(self, **inputs: object) -> Any:
        """The model's output, for a backward pass."""
        return self._engine(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients. DeepSpeed averages over micro-batches and workers."""
        self._engine.backward(loss)

    def step(self, learning_rate: float) -> bool:
        """Take one optimizer step after the last micro-batch. Returns False when it was skipped, as float16
        does when gradients overflow."""
        for group in self._zero.param_groups:
            group["lr"] = learning_rate
        skipped = self._engine.skipped_steps
        self._engine.step()
        return bool(self._engine.skipped_steps == skipped)

    def micro_step(self) -> None:
        """Tell DeepSpeed that a micro-batch is done that is not the last of its step."""
        self._engine.step()

    def gradient_norm(self) -> float:
        """The L2 norm of the last step's gradients over all trained parameters, before clipping."""
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    @property
    def loss_scale(self) -> float | None:
        """The loss scale of float16; None for the other types."""
        return float(self._zero.loss_scale) if self._engine.fp16_enabled() else None

    def scaler_state(self) -> dict[str, float]:
        """The state of float16's loss scaling; empty for the other types."""
        if not self._engine.fp16_enabled():
            return {}
        state = vars(self._zero.loss_scaler)
        return {name: value for name, value in state.items() if isinstance(value, int | float)}

    def restore_scaler(self, state: Mapping[str, float]) -> None:
        """Take over a stored state of the loss scaling."""
        for name, value in state.items():
            setattr(self._zero.loss_scaler, name, value)

    def fragments(self) -> Iterator[Fragment]:
        """This worker's pieces, in the order of the parameters."""
        for name, parameter in self._parameters.items():
            fragment = self._fragment(name, parameter)
            if fragment is not None:
                yield fragment

    def create_moments(self, steps: int) -> None:
        """Create zero moments as if after `steps` steps, which a restart then fills with stored ones."""
        adam = self._zero.optimizer
        for flat in self._flat_masters():
            adam.state[flat] = {
                "step": torch.tensor(float(steps), dtype=torch.float32, device=flat.device),
                **{moment: torch.zeros_like(flat) for moment in MOMENTS},
            }

    def full(self, name: str) -> Tensor:
        """A trained parameter's whole master weights, gathered from all workers: float32, on every worker."""
        shape = self.shapes[name]
        whole = torch.zeros(shape, dtype=torch.float32, device=self.device)
        parameter = self._parameters[name]
        fragment = self._fragment(name, parameter)
        if fragment is not None:
            flat = whole.view(-1)
            flat[fragment.start : fragment.start + fragment.length] = fragment.parts[MASTER].to(self.device)
        return ranks.add_up(whole)

    def collected(self, name: str, start: int, length: int, worker: int) -> Tensor | None:
        """Flattened elements of a trained parameter's master weights, float32 [length], on `worker`; None on
        all others. All workers call it."""
        whole = torch.zeros(length, dtype=torch.float32, device=self.device)
        fragment = self._fragment(name, self._parameters[name])
        if fragment is not None:
            low = max(start, fragment.start)
            high = min(start + length, fragment.start + fragment.length)
            if low < high:
                own = fragment.parts[MASTER][low - fragment.start : high - fragment.start]
                whole[low - start : high - start] = own.to(self.device)
        return ranks.added_on(worker, whole)

    def zero_out(self, name: str, where: Tensor) -> None:
        """Set elements of a trained parameter to 0, in working weights, master weights and moments. `where`:
        bool, in the parameter's shape."""
        flat = where.reshape(-1)
        parameter = self._parameters[name]
        fragment = self._fragment(name, parameter)
        if fragment is not None:
            own = flat[fragment.start : fragment.start + fragment.length]
            for part in fragment.parts.values():
                part.masked_fill_(own.to(part.device), 0)
            fragment.working.masked_fill_(own.to(fragment.working.device), 0)
        if not self._sharded:
            parameter.data.masked_fill_(where.to(parameter.device), 0)

    def load_working(self, name: str, whole: Tensor) -> None:
        """Set the working weights of a trained parameter, which the forward pass uses."""
        parameter = self._parameters[name]
        if self._sharded:
            fragment = self._fragment(name, parameter)
            if fragment is not None:
                own = whole.reshape(-1)[fragment.start : fragment.start + fragment.length]
                fragment.working.copy_(own)
        else:
            parameter.data.copy_(whole)

    @property
    def _sharded(self) -> bool:
        return self._engine.zero_optimization_stage() == 3

    def _flat_masters(self) -> list[Tensor]:
        if self._sharded:
            return list(self._zero.fp32_partitioned_groups_flat)
        return list(self._zero.single_partition_of_fp32_groups)

    def _fragment(self, name: str, parameter: nn.Parameter) -> Fragment | None:
        return self._shard(name, parameter) if self._sharded else self._piece(name, parameter)

    def _state_of(self, flat: Tensor) -> dict[str, Tensor]:
        """The master weights and moments of a flat group, from the optimizer itself: DeepSpeed's own links to
        the moments miss every group but the first."""
        state = self._zero.optimizer.state.get(flat, {})
        return {MASTER: flat} | {moment: state[moment] for moment in MOMENTS if moment in state}

    def _piece(self, name: str, parameter: nn.Parameter) -> Fragment | None:
        """The fragment under stages 1 and 2: working weights are whole, master weights and moments cut."""
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return None  # other workers hold all of it
        address, own = mapping.lp_fragment_address, mapping.hp_fragment_address
        flat = self._zero.single_partition_of_fp32_groups[mapping.param_group_index]
        held = {
            part: values.data[own.start : own.start + own.numel]
            for part, values in self._state_of(flat).items()
        }
        working = parameter.data.view(-1)[address.start : address.start + address.numel]
        return Fragment(name, address.start, address.numel, held, working)

    def _shard(self, name: str, parameter: nn.Parameter) -> Fragment | None:
        """The fragment under stage 3: everything is cut into equal shards; the last may be padded."""
        shard = parameter.ds_tensor  # type: ignore[attr-defined]
        total = parameter.ds_numel  # type: ignore[attr-defined]
        start = ranks.rank() * shard.numel()
        length = min(shard.numel(), total - start)
        if length <= 0:
            return None
        group, offset, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
        flat = self._zero.fp32_partitioned_groups_flat[group]
        held = {part: values.data[offset : offset + length] for part, values in self._state_of(flat).items()}
        return Fragment(name, start, length, held, shard.data[:length])


class Partitioner:
    """Cuts parameters into shards as ZeRO 3 does, before they have values. `config`: DeepSpeed's, of ZeRO 3.
    DeepSpeed's own way would send every whole parameter from worker 0 to all others first."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self._init = deepspeed.zero.Init(config_dict_or_path=dict(config))

    def shard(self, parameter: nn.Parameter) -> Tensor:
        """Free the memory of a parameter, and return this worker's shard of it, [n] without values: worker r
        has the flattened elements from r·n on, of which the last worker may have fewer."""
        self._init._convert_to_deepspeed_param(parameter)
        parameter.partition()  # type: ignore[attr-defined]
        shard: Tensor = parameter.ds_tensor.data  # type: ignore[attr-defined]
        return shard


class Teacher:
    """A model for forward passes only. It is whole on every worker, or partitioned by ZeRO 3."""

    def __init__(self, model: nn.Module, config: Mapping[str, object] | None) -> None:
        self._model = model
        if config is not None:
            self._model, *_ = deepspeed.initialize(model=model, config=dict(config))

    def __call__(self, **inputs: object) -> Any:
        with torch.no_grad():
            return self._model(**inputs)


@contextmanager
def whole_parameter(parameter: Tensor) -> Iterator[None]:
    """Make a parameter whole that ZeRO 3 may have partitioned. All workers do so at the same time."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    with deepspeed.zero.GatheredParameters([parameter]):
        yield


def prepare_process(*, cuda: bool) -> None:
    """Set up DeepSpeed before its first use. On CPUs its collectives are gloo's: its own for one machine
    would be compiled for minutes at the first use."""
    if not cuda:
        os.environ["DS_ACCELERATOR"] = "cpu"
        from deepspeed.ops.op_builder.all_ops import ALL_OPS

        deepspeed.ops.__compatible_ops__.update(
            {name: False for name in ALL_OPS if name == "deepspeed_shm_comm"}
        )
    # DeepSpeed's calls of torch.distributed warn.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if not dist.is_initialized():
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "0")
    deepspeed.init_distributed("nccl" if cuda else "gloo", dist_init_required=None, verbose=False)
