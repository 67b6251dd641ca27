"""LoRA whose update is masked like the weight: peft's layers, with the keep tensor applied to B·A.

    y = x · (W + alpha / rank · (B·A where kept))ᵀ + b

holds in training and in the merge, so that the merged model is the one that was trained and keeps every zero.
peft by itself applies the published adapter without a mask, W + alpha / rank · B·A: that is another model.

Names: `names` is the mapping that load_model gave before apply_lora (parameter → checkpoint). Keep tensors go
by checkpoint names, in the orientation of the stored weight.

Shape legend: O out_features, I in_features, R rank.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import AdapterRef
from pipeline.checkpoint.keeps import turned
from pipeline.errors import InvalidSpec
from pipeline.spec.recovery import Lora
from workers.training.expert_lora import PARAMETERS, adapt_experts, adapts_experts, experts_of, peft_tensors
from workers.training.held import HeldKeep, cleared

ADAPTER = "default"
BASE = "model"  # transformers' name of a language model without its head, for all types that wrappers have
A, B = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"


class MaskedLinear(Linear):
    """peft's LoRA layer of one linear (or Conv1D, whose weight is [I, O]). `held`: its keep tensor; None
    keeps everything."""

    held: HeldKeep | None = None

    def hold(self, keep: Tensor | None, device: torch.device) -> None:
        """Mask the update with a keep tensor, in the orientation of the weight."""
        self.held = None if keep is None else HeldKeep(keep, device)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The masked update, in the orientation of the weight; peft's own merge uses it too."""
        update: Tensor = super().get_delta_weight(adapter)
        return update if self.held is None else cleared(update, self.held)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, with dropout on the update's path only. The base weight is read by its own
        module: under ZeRO 3 it is whole there and nowhere else."""
        update = self.get_delta_weight(ADAPTER)
        x_dropped = self.lora_dropout[ADAPTER](x)
        added = x_dropped @ update if self.fan_in_fan_out else functional.linear(x_dropped, update)
        result: Tensor = self.base_layer(x) + added
        return result


def apply_lora(
    model: PreTrainedModel,
    lora: Lora,
    keeps: Mapping[str, Tensor],
    *,
    names: Mapping[str, str],
    stored: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """Add adapters to the prunable linears of `model`, in place, and freeze everything else.

    Weights without a keep tensor are dense. Weights may be partitioned already. Equal seeds give equal
    adapters on every worker; B starts at zero, so that the model at first gives the same outputs. Parameters
    are now named `<linear>.base_layer.weight`, `<linear>.lora_A.default.weight` and
    `<linear>.lora_B.default.weight`; those of experts are named in expert_lora.py. `stored`: parameter →
    checkpoint names of its matrices, needed where experts are adapted.
    """
    row = row_for(model.config.model_type)
    config = _config(lora, row)
    config.target_parameters = None  # of experts, which are adapted below
    config._register_custom_module({nn.Linear: MaskedLinear, Conv1D: MaskedLinear})
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.target_modules:
            inject_adapter_in_model(config, model, ADAPTER)
        if adapts_experts(lora, row):
            adapt_experts(model, row, lora, keeps, stored or {})
    for path, module in model.named_modules():
        if isinstance(module, MaskedLinear):
            weight = next(module.base_layer.parameters())
            keep = keeps.get(names[f"{path}.weight"])
            module.hold(keep, weight.device)
    model.enable_input_require_grads()  # gradient checkpointing passes over inputs that need no gradient
    return model


def merged_state(
    trained: Mapping[str, Tensor],
    weight: Callable[[str], Tensor],
    lora: Lora,
    keeps: Mapping[str, Tensor],
    *,
    names: Mapping[str, str],
    row: Architecture,
) -> Iterator[tuple[str, Tensor]]:
    """Yield checkpoint name and merged weight of every linear with an adapter, one at a time.

    `trained`: whole adapter matrices by parameter name, float32. `weight` reads a base weight by checkpoint
    name. The sum is computed in float32, the result has the base weight's type. Pruned weights are exactly 0.
    """
    for path, a_RI, b_OR in _pairs(trained):
        name = names[f"{path}.weight"]
        yield name, merged_weight(weight(name), a_RI, b_OR, lora, keeps.get(name), row=row)


def merged_weight(
    base: Tensor, a_RI: Tensor, b_OR: Tensor, lora: Lora, keep: Tensor | None, *, row: Architecture
) -> Tensor:
    """A base weight with the update of its adapter, exactly 0 where it is pruned, in its own type."""
    update = turned(b_OR @ a_RI, row) * (lora.alpha / lora.rank)
    merged = base.float() + update.to(base.device)
    if keep is not None:
        merged = merged.masked_fill(~keep.to(base.device), 0)
    return merged.to(base.dtype).contiguous()


def adapter_files(
    trained: Mapping[str, Tensor], lora: Lora, *, row: Architecture, base_model: str, module: str = BASE
) -> dict[str, bytes]:
    """The files of the adapter as peft stores it, by path.

    `base_model`: the model onto which peft will load it. `module`: the place in it of what is `model` in the
    language model alone, which a multimodal model has elsewhere. Equal adapters give equal bytes.
    """
    config = _config(lora, row)
    if module != BASE and isinstance(config.target_modules, str):
        config.target_modules = config.target_modules.replace(re.escape(BASE), re.escape(module), 1)
    config.base_model_name_or_path = base_model
    config.inference_mode = True
    config.task_type = "CAUSAL_LM"
    with tempfile.TemporaryDirectory() as directory:
        config.save_pretrained(directory)
        described = (Path(directory) / AdapterRef.CONFIG).read_bytes()
    tensors = {}
    for path, a_RI, b_OR in _pairs(trained):
        place = path if module == BASE else f"{module}{path.removeprefix(BASE)}"
        tensors[f"base_model.model.{place}.lora_A.weight"] = a_RI.cpu().contiguous()
        tensors[f"base_model.model.{place}.lora_B.weight"] = b_OR.cpu().contiguous()
    for path in experts_of(trained):
        place = path if module == BASE else f"{module}{path.removeprefix(BASE)}"
        tensors |= peft_tensors(trained, path, f"base_model.model.{place}")
    return {AdapterRef.CONFIG: described, AdapterRef.MATRICES: save(tensors, {"format": "pt"})}


def _config(lora: Lora, row: Architecture) -> LoraConfig:
    known = row.adaptable
    unknown = set(lora.linears or ()) - set(known)  # peft would ignore them
    if unknown:
        raise InvalidSpec(
            f"{row.model_type} has no linears {sorted(unknown)}; it has {', '.join(known)}",
            "spec.recovery.trains.linears",
        )
    named = [name for name in lora.linears or row.adapted_names if name in row.adapted_names]
    linears = "|".join(re.escape(name) for name in named)
    experts = row.experts.module if adapts_experts(lora, row) and row.experts is not None else None
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"{re.escape(row.blocks)}\.\d+\.({linears})" if named else [],
        target_parameters=None if experts is None else [f"{experts}.{name}" for name in PARAMETERS],
        fan_in_fan_out=row.transposed,
        bias="none",
    )


def _pairs(trained: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the path of each linear with its A [R, I] and B [O, R], float32."""
    for name, a_RI in trained.items():
        if name.endswith(A):
            path = name.removesuffix(A)
            yield path, a_RI.float(), trained[f"{path}{B}"].float()
