"""Every model type, and variants of it, against the whole model in transformers and the formulas as loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.allocations import Uniform
from pipeline.architecture.rows import ROWS, row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.tensor_index import TensorEntry
from pipeline.checkpoint.keeps import keep_ref, load_keep
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names
from pipeline.checkpoint.stream import BlockStream
from pipeline.errors import UnsupportedCheckpoint, UnsupportedModel
from pipeline.masks.certify import certify
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import Unstructured
from pipeline.storage import ContentStore
from tests import oracles
from tests.checkpoints import imported
from tests.exported import exported
from tests.model_configs import EVERY, KINDS, VOCABULARY, kind_of
from tests.models import tiny_checkpoint
from tests.sweeping import prune_in_process

HALF = Unstructured(sparsity=0.5, comparison_group="row")


pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


def samples(count: int = 4, length: int = 24) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, VOCABULARY, (length,), generator=generator) for _ in range(count)]


def whole_model(directory: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def entries(content: ContentStore, ref: CheckpointRef) -> dict[str, TensorEntry]:
    return CheckpointReader(content, ref).index.tensors


def pruned_by_loops(model: PreTrainedModel, kind: str, sequences: list[Tensor]) -> dict[str, Tensor]:
    """Wanda on the whole model, block after block, each measured with the blocks before it pruned."""
    row = row_for(kind)
    keeps = {}
    for number, block in enumerate(model.get_submodule(row.blocks)):
        inside = dict(block.named_modules())
        linears = {name: inside[name] for name in row.linear_names if name in inside}
        inputs = inputs_of(model, linears, sequences)
        weights = {name: one.weight.t() if row.transposed else one.weight for name, one in linears.items()}
        if "mlp.experts" in inside:
            experts = inside["mlp.experts"]
            matrices, routed = matrices_of(experts, kind), inputs_of_experts(model, experts, kind, sequences)
            weights, inputs = weights | matrices, inputs | routed
        for name, weight in weights.items():
            norm_I = norms(inputs[name])
            if ".experts." in name and sum(len(x_TI) for x_TI in inputs[name]) < 32:
                norm_I = np.ones_like(norm_I)
            saliency = oracles.wanda_saliency(weight.numpy(), norm_I)
            keep = torch.from_numpy(oracles.keep_rows_exact(saliency, HALF.sparsity))
            weight.masked_fill_(~keep, 0)
            keeps[f"{row.blocks}.{number}.{name}.weight"] = keep
    return keeps


def matrices_of(experts: nn.Module, kind: str) -> dict[str, Tensor]:
    """Views of what the module holds fused, by stored names inside the block."""
    found = {}
    for e, (gate_up, down) in enumerate(zip(experts.gate_up_proj, experts.down_proj, strict=True)):
        half = len(gate_up) // 2
        for which, matrix in {"gate": gate_up[:half], "up": gate_up[half:], "down": down}.items():
            found[expert_name(kind, e, which)] = matrix
    return found


def inputs_of_experts(
    model: PreTrainedModel, experts: nn.Module, kind: str, sequences: list[Tensor]
) -> dict[str, list[np.ndarray]]:
    """Of each sequence what each matrix of each expert sees, token by token, [T, I]."""
    matrices = matrices_of(experts, kind)
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in matrices}

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        x_TH, chosen_TK, _weights = args
        for e in range(len(experts.down_proj)):
            gate, up, down = (expert_name(kind, e, which) for which in ("gate", "up", "down"))
            outer, inner = [np.zeros((0, x_TH.shape[1]))], [np.zeros((0, matrices[down].shape[1]))]
            for x_H, chosen_K in zip(x_TH, chosen_TK.tolist(), strict=True):
                if e in chosen_K:
                    opened = matrices[gate] @ x_H
                    outer.append(x_H[None].numpy())
                    inner.append((opened * torch.sigmoid(opened) * (matrices[up] @ x_H))[None].numpy())
            inputs[gate].append(np.concatenate(outer))
            inputs[up].append(np.concatenate(outer))
            inputs[down].append(np.concatenate(inner))

    handle = experts.register_forward_pre_hook(hook)
    for tokens in sequences:
        model(input_ids=tokens[None], use_cache=False)
    handle.remove()
    return inputs


def expert_name(kind: str, expert: int, which: str) -> str:
    if kind == "mixtral":
        which = {"gate": "w1", "up": "w3", "down": "w2"}[which]
        return f"block_sparse_moe.experts.{expert}.{which}"
    return f"mlp.experts.{expert}.{which}_proj"


def inputs_of(
    model: PreTrainedModel, linears: dict[str, nn.Module], sequences: list[Tensor]
) -> dict[str, list[np.ndarray]]:
    """What each linear sees of each sequence, [T, I]."""
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in linears}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: inputs[name].append(args[0].flatten(0, -2).numpy().copy())
        )
        for name, module in linears.items()
    ]
    for tokens in sequences:
        model(input_ids=tokens[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return inputs


def norms(samples: list[np.ndarray]) -> np.ndarray:
    """oracles.input_norm, faster."""
    return np.sqrt(np.mean([np.square(x.astype(np.float64)).sum(axis=0) for x in samples], axis=0))


@pytest.mark.parametrize("name", EVERY)
def test_pruning_is_that_of_the_whole_model_and_loads_everywhere(name: str, tmp_path: Path) -> None:
    directory = tiny_checkpoint(name, tmp_path / "model")
    content, checkpoint = imported(directory, tmp_path / "store")
    model = whole_model(directory)
    reader = CheckpointReader(content, checkpoint)
    on_disk = disk_names(model, reader)
    loops = pruned_by_loops(model, kind_of(name), samples())
    expected = {on_disk[key]: keep for key, keep in loops.items()}

    got = prune_in_process(
        content, checkpoint, samples(), method=Wanda(), allocation=Uniform(), pattern=HALF, workers=2
    )
    assert got.keep.keys() == expected.keys()
    for key, keep in expected.items():
        assert torch.equal(got.keep[key], keep), key

    ref = exported(content, checkpoint, got.made, tmp_path / "pruned")
    before, after = entries(content, checkpoint), entries(content, ref)
    assert before.keys() == after.keys()
    for key, entry in after.items():
        assert (entry.dtype, entry.shape) == (before[key].dtype, before[key].shape)
        assert (entry.sha256 != before[key].sha256) == (key in expected), key
    linears = [linear for block in got.blocks for linear in block.linears]
    kept = keep_ref(content, [block.keep for block in got.blocks], linears)
    assert certify(content, ref, kept, at="published")[1].tensors == len(expected)
    oriented = load_keep(content, ref, kept)
    assert {key: keep.shape for key, keep in oriented.items()} == {key: after[key].shape for key in expected}
    again = whole_model(tmp_path / "pruned")
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key
    tokens = samples(1)[0][None]
    assert torch.equal(again(input_ids=tokens).logits, model(input_ids=tokens).logits)


@pytest.mark.parametrize("name", EVERY)
def test_batches_are_called_as_the_model_calls_them(name: str, tmp_path: Path) -> None:
    directory = tiny_checkpoint(name, tmp_path / "model")
    content, checkpoint = imported(directory, tmp_path / "store")
    reader = CheckpointReader(content, checkpoint)
    stream = BlockStream(reader, dtype=torch.float32, device=torch.device("cpu"))
    hidden = torch.cat(list(stream.embed(samples(3))))
    for block in range(stream.num_blocks):
        names = stream.block_tensors(block)
        stream.load(block, {key: reader.tensor(disk) for key, disk in names.items()})
        hidden = stream.run(block, hidden)
    stream.load_head()
    whole = whole_model(directory)(input_ids=torch.stack(samples(3))).logits
    for tokens, one, expected in zip(samples(3), hidden, whole, strict=True):
        torch.testing.assert_close(stream.logits(tokens, one[None]), expected, atol=1e-5, rtol=1e-5)


def test_every_row_has_a_tiny_model() -> None:
    assert set(ROWS) == set(KINDS)
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    for model_type in ROWS:
        assert f"| `{model_type}` |" in page, f"docs/models.md does not tell of {model_type}"


def test_a_linear_that_its_block_passes_by_is_not_measured(tmp_path: Path) -> None:
    directory = tiny_checkpoint("bloom", tmp_path / "model")
    config = (directory / "config.json").read_text()
    assert '"slow_but_exact": false' in config
    config = config.replace('"slow_but_exact": false', '"slow_but_exact": true')
    (directory / "config.json").write_text(config.replace('"pretraining_tp": 1', '"pretraining_tp": 2'))
    content, checkpoint = imported(directory, tmp_path / "store")
    with pytest.raises(UnsupportedCheckpoint, match=r"self_attention.dense is not called by its block"):
        prune_in_process(content, checkpoint, samples(), method=Wanda(), allocation=Uniform(), pattern=HALF)


def test_an_unknown_type_names_the_known_ones_and_the_file() -> None:
    with pytest.raises(UnsupportedModel, match=r"'gemma3' has no row in .*/rows.py; known types"):
        row_for("gemma3")
