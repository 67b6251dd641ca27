"""LoRA under keep tensors: what is trained is what is merged, zeros stay, and peft reads the adapter."""

import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.architecture.rows import row_for
from pipeline.errors import InvalidSpec
from pipeline.spec.recovery import Lora
from tests.model_configs import DENSE
from tests.models import Kind, tiny_checkpoint
from workers.training.lora import MaskedLinear, adapter_files, apply_lora, merged_state

TOKENS = torch.arange(48).reshape(2, 24)
kinds = pytest.mark.parametrize("kind", DENSE)


def pruned_model(kind: Kind, directory: Path) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A tiny model whose linears are half zeros, and their keep tensors as the weights are stored."""
    if not directory.exists():
        tiny_checkpoint(kind, directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    row = row_for(kind)
    generator = torch.Generator().manual_seed(7)
    keeps = {}
    for name, parameter in model.named_parameters():
        if name.startswith(row.blocks) and name.endswith(tuple(f"{n}.weight" for n in row.linear_names)):
            keeps[name] = torch.rand(parameter.shape, generator=generator) < 0.5
            parameter.data.masked_fill_(~keeps[name], 0)
    return model, keeps


def names_of(model: PreTrainedModel) -> dict[str, str]:
    return {name: name for name, _ in model.named_parameters()}


def trained(model: PreTrainedModel, *, steps: int = 5) -> dict[str, Tensor]:
    """A few steps; the adapter matrices by name."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.01)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return {name: parameter.detach() for name, parameter in parameters.items()}


@kinds
def test_the_merged_model_is_the_trained_one_and_keeps_every_zero(kind: Kind, tmp_path: Path) -> None:
    model, keeps = pruned_model(kind, tmp_path / "model")
    merged, _ = pruned_model(kind, tmp_path / "model")
    names, row, lora = names_of(model), row_for(kind), Lora(rank=4, alpha=8)
    before = {name: parameter.clone() for name, parameter in merged.named_parameters()}
    with torch.no_grad():
        plain = model(input_ids=TOKENS).logits
    apply_lora(model, lora, keeps, names=names)
    layers = [module for module in model.modules() if isinstance(module, MaskedLinear)]
    assert len(layers) == len(keeps)
    with torch.no_grad():
        assert torch.equal(model(input_ids=TOKENS).logits, plain)
    weights = trained(model)
    assert all(".lora_" in name for name in weights)

    changed = dict(merged_state(weights, lambda name: before[name], lora, keeps, names=names, row=row))
    assert changed.keys() == keeps.keys()
    for name, weight in changed.items():
        assert torch.equal(weight == 0, ~keeps[name]), name
        assert not torch.equal(weight, before[name])
    merged.load_state_dict(changed, strict=False)
    with torch.no_grad():
        expected, got = merged(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got, plain, atol=1e-2)

    for layer in layers:
        layer.merge()  # peft's own merge keeps them too
        assert layer.held is not None
        assert torch.equal(layer.base_layer.weight == 0, ~layer.held.whole())


@kinds
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks
def test_peft_loads_the_adapter(kind: Kind, tmp_path: Path) -> None:
    model, _ = pruned_model(kind, tmp_path / "model")
    names, row, lora = names_of(model), row_for(kind), Lora(rank=3, alpha=5.5)
    apply_lora(model, lora, {}, names=names)  # without masks it is peft's own model
    weights = trained(model)
    files = adapter_files(weights, lora, row=row, base_model="base")
    assert files == adapter_files(weights, lora, row=row, base_model="base")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    base, _ = pruned_model(kind, tmp_path / "model")
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert loaded.peft_config["default"].base_model_name_or_path == "base"
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits, atol=1e-5, rtol=1e-5
        )


def test_chosen_linears_dropout_and_checkpointing(tmp_path: Path) -> None:
    lora = Lora(rank=4, alpha=8, dropout=0.3, linears=("mlp.up_proj", "mlp.down_proj"))
    gradients = []
    with pytest.raises(InvalidSpec, match=r"llama has no linears \['q_proj'\]; it has self_attn.q_proj, "):
        apply_lora(pruned_model("llama", tmp_path / "model")[0], Lora(linears=("q_proj",)), {}, names={})
    for checkpointing in (False, True):
        model, keeps = pruned_model("llama", tmp_path / "model")
        apply_lora(model, lora, keeps, names=names_of(model), seed=3)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert len(parameters) == 4 * 2 * 2
        for name, parameter in parameters.items():
            if name.endswith("lora_B.default.weight"):
                parameter.data.fill_(0.01)
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        torch.manual_seed(5)
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in parameters.items()})
        assert all(math.isfinite(g.abs().sum()) and g.any() for g in gradients[-1].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])
