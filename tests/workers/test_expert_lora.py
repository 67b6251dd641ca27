"""LoRA on experts: what is trained is what is merged, zeros stay, and peft reads the adapter."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.architecture.rows import row_for
from pipeline.checkpoint.experts import slot
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names, stored_parts
from pipeline.errors import InvalidSpec
from pipeline.request.prune_spec import PruneSpec
from pipeline.request.resources import Resources, TrainingResources
from pipeline.resolve.model import resolve_model
from pipeline.resolve.model_checks import check_against_model
from pipeline.resolve.training_memory import TrainingMemory, training_memory
from pipeline.sources import SourceAccess, open_source
from pipeline.sources.pins import MODEL, Pins
from pipeline.spec.recovery import Lora, Recovery
from tests.checkpoints import imported
from tests.made_pins import made_pin
from tests.models import Kind, tiny_checkpoint
from tests.workers.outcomes import curve_of, keeps_of, weights_of
from tests.workers.training_runs import Call, Folder, prepare, run_all
from workers.training.expert_lora import A, slices
from workers.training.lora import adapter_files, apply_lora, merged_weight
from workers.verification.answer import Opening
from workers.verification.opening import open_model

TOKENS = torch.arange(48).reshape(2, 24)
EXPERTS = {"mixtral": "block_sparse_moe.experts", "qwen3_moe": "mlp.experts"}
kinds = pytest.mark.parametrize("kind", EXPERTS)
of_peft = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


class Adapted:
    """A model with adapters on its experts and on the queries, whose B is not zero. `keeps`: by checkpoint
    name; none if the model is dense."""

    def __init__(self, kind: Kind, directory: Path, *, pruned: bool) -> None:
        tiny_checkpoint(kind, directory / "model")
        content, ref = imported(directory / "model", directory / "store")
        self.reader, self.row = CheckpointReader(content, ref), row_for(kind)
        self.plain = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32).eval()
        self.model = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32).eval()
        names = disk_names(self.model, self.reader)
        self.stored = stored_parts(self.model, names)
        self.lora = Lora(rank=3, alpha=5.5, linears=("self_attn.q_proj", EXPERTS[kind]))
        generator = torch.Generator().manual_seed(7)
        owns = self.row.experts.owns
        self.keeps: dict[str, Tensor] = {
            disk: torch.rand(self.reader.index.tensors[disk].shape, generator=generator) < 0.5
            for disks in self.stored.values()
            for disk in disks
            if pruned and owns(disk.partition(".layers.")[2].partition(".")[2])
        }
        for model in (self.plain, self.model):
            self.replace(model, {disk: self.base(disk) for disk in self.keeps})
        single = {name: disks[0] for name, disks in self.stored.items() if len(disks) == 1}
        apply_lora(self.model, self.lora, self.keeps, names=single, stored=self.stored)
        with torch.no_grad():
            assert torch.equal(self.model(input_ids=TOKENS).logits, self.plain(input_ids=TOKENS).logits)
            for name, parameter in self.model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def base(self, disk: str) -> Tensor:
        """A stored weight, with its zeros."""
        weight = self.reader.tensor(disk)
        return weight.masked_fill(~self.keeps[disk], 0) if disk in self.keeps else weight

    def replace(self, model: PreTrainedModel, tensors: dict[str, Tensor]) -> None:
        """Writes matrices of experts, by checkpoint name, into a model."""
        blocks = model.get_submodule(self.row.blocks)
        with torch.no_grad():
            for disk, tensor in tensors.items():
                block, _, inside = disk.partition(".layers.")[2].partition(".")
                slot(self.row.experts, blocks[int(block)].state_dict(), inside).copy_(tensor)

    def merged(self) -> dict[str, Tensor]:
        """The merged matrices of the experts, by checkpoint name."""
        shapes = {name: tuple(parameter.shape) for name, parameter in self.trained.items()}
        found = {}
        for name, disks in self.stored.items():
            if f"{name}{A}" not in shapes:
                continue
            for disk, parts in slices(name, disks, shapes):
                a_RI, b_OR = (
                    self.trained[one.name]
                    .detach()
                    .flatten()[one.start :][: one.shape[0] * one.shape[1]]
                    .view(one.shape)
                    for one in parts
                )
                keep = self.keeps.get(disk)
                found[disk] = merged_weight(self.base(disk), a_RI, b_OR, self.lora, keep, row=self.row)
        return found


@kinds
@pytest.mark.usefixtures("one_thread")
@of_peft
def test_the_merged_experts_are_the_trained_ones_and_keep_every_zero(kind: Kind, tmp_path: Path) -> None:
    adapted = Adapted(kind, tmp_path, pruned=True)
    merged = adapted.merged()
    assert merged.keys() == adapted.keeps.keys()
    for name, weight in merged.items():
        assert torch.equal(weight == 0, ~adapted.keeps[name]), name
    for name in list(adapted.trained):  # the queries are merged by lora.py, whose tests are elsewhere
        if ".q_proj.lora_B" in name:
            adapted.trained[name].data.zero_()
    adapted.replace(adapted.plain, merged)
    with torch.no_grad():
        expected, got = adapted.plain(input_ids=TOKENS).logits, adapted.model(input_ids=TOKENS).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    loss = adapted.model(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    for name, parameter in adapted.trained.items():
        if ".q_proj.lora_A" in name:
            continue  # its B is zero
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@kinds
@pytest.mark.usefixtures("one_thread")
@of_peft
def test_peft_loads_the_adapter_of_experts(kind: Kind, tmp_path: Path) -> None:
    adapted = Adapted(kind, tmp_path, pruned=False)  # without masks it is peft's own model
    files = adapter_files(adapted.trained, adapted.lora, row=adapted.row, base_model="base")
    (tmp_path / "model" / "adapter").mkdir()
    for name, data in files.items():
        (tmp_path / "model" / "adapter" / name).write_bytes(data)
    (tmp_path / "aside").mkdir()
    opening = Opening(
        directory=tmp_path / "model",
        aside=tmp_path / "aside",
        weights="in_memory",
        threads=1,
        adapter="adapter",
    )
    assert open_model(opening).adapter_tensors == len(adapted.trained)
    loaded = PeftModel.from_pretrained(adapted.plain, tmp_path / "model" / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(input_ids=TOKENS).logits, adapted.model(input_ids=TOKENS).logits, atol=1e-5, rtol=1e-5
        )


@pytest.mark.slow
def test_experts_are_adapted_in_training_and_hold_their_zeros(tmp_path: Path) -> None:
    tiny = prepare(tmp_path / "model", "qwen3_moe")
    linears = [*row_for("qwen3_moe").linear_names[:4], "mlp.experts"]
    lora = {"kind": "lora", "rank": 4, "linears": linears}
    recovery = {"steps": 8, "trains": lora, "learning_rate": {"peak": 2e-2, "warmup_steps": 2}}
    calls = [
        Call(tiny.work(recovery, {"zero_stage": stage}, key=f"zero {stage}"), Folder(tmp_path / str(stage)))
        for stage in (1, 3)
    ]
    outcomes = run_all(tmp_path, calls, workers=2)
    losses = [[step.loss for step in curve_of(tiny, outcome).steps] for outcome in outcomes]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    before = CheckpointReader(tiny.content, tiny.pruned)
    for outcome in outcomes:
        curve = curve_of(tiny, outcome)
        assert curve.validations[-1].loss < curve.validations[0].loss
        weights = weights_of(tiny, outcome)
        for name, keep in keeps_of(tiny, outcome).items():
            assert not weights[name][~keep].any(), name
        changed = {name for name, weight in weights.items() if not torch.equal(weight, before.tensor(name))}
        assert changed == {
            name for name in weights if ".experts." in name or ("self_attn" in name and "norm" not in name)
        }


def test_experts_are_named_by_their_place_and_take_no_dropout(tmp_path: Path) -> None:
    directory = tiny_checkpoint("mixtral", tmp_path / "model")
    source = open_source(f"file:{directory}", SourceAccess(allowed_roots=(tmp_path,)))
    facts = resolve_model(source, needs_tokenizer=False)[1]

    def asked(**lora: object) -> PruneSpec:
        text = {"source": "file:/text.txt", "sequence_length": 16}
        recovery = {"steps": 1, "text": text, "trains": {"kind": "lora", **lora}}
        return PruneSpec.model_validate({"model": {"source": "file:/model"}, "recovery": recovery})

    check_against_model(asked(linears=["block_sparse_moe.experts"]), facts)
    with pytest.raises(InvalidSpec, match=r"no linear 'mlp.experts'; did you mean") as refused:
        check_against_model(asked(linears=["mlp.experts"]), facts)
    assert refused.value.param == "spec.recovery.trains.linears.0"
    with pytest.raises(
        InvalidSpec, match=r"dropout 0.1 cannot be applied to the update of experts"
    ) as refused:
        check_against_model(asked(linears=["block_sparse_moe.experts"], dropout=0.1), facts)
    assert refused.value.param == "spec.recovery.trains.dropout"


def test_the_adapted_weights_of_experts_count_as_memory(tmp_path: Path) -> None:
    """Two blocks of 4 experts, whose matrices are gate and up of 2·32 x 64 and down of 64 x 32."""
    directory = tiny_checkpoint("qwen3_moe", tmp_path / "model")
    facts = resolve_model(
        open_source(f"file:{directory}", SourceAccess(allowed_roots=(tmp_path,))), needs_tokenizer=False
    )[1]
    experts, inner = facts.config["num_local_experts"], facts.config["moe_intermediate_size"]
    assert (facts.blocks, facts.hidden_size, experts, inner) == (2, 64, 4, 32)

    def memory(*, checkpointing: bool, linears: tuple[str, ...]) -> TrainingMemory:
        text = {"source": "file:/text.txt", "sequence_length": 16}
        trains = {"kind": "lora", "rank": 4, "linears": linears}
        recovery = Recovery.model_validate({"steps": 1, "text": text, "trains": trains})
        resources = Resources(recovery=TrainingResources(gradient_checkpointing=checkpointing, zero_stage=1))
        pin = made_pin("file:/model")
        pins = Pins(sources={MODEL: pin}, models={MODEL: facts})
        return training_memory(recovery, resources, pins=pins, sparse=True)

    weights = 2 * 4 * (2 * 32 * 64 + 64 * 32)
    alone = memory(checkpointing=False, linears=("self_attn.q_proj",))
    both = memory(checkpointing=False, linears=("self_attn.q_proj", "mlp.experts"))
    assert (alone.adapted, both.adapted) == (0, 4 * weights)
    assert memory(checkpointing=True, linears=("mlp.experts",)).adapted == 4 * weights // 2
    adapters = 2 * 4 * 4 * ((64 + 2 * 32) + (32 + 64))
    assert both.gradients - alone.gradients == 4 * adapters
