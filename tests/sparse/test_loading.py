"""Pruned checkpoints that open as transformers models with sparse linears, and compute the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import secateur.sparse
from secateur.sparse import SparseError, SparseLinear
from secateur.sparse.dense import DenseLinear
from secateur.sparse.directories import pack_directory
from tests.model_configs import DENSE
from tests.models import PARAGRAPH
from tests.sparse.pruned import pruned_checkpoint

ROWS = tuple(kind for kind in DENSE if kind != "gpt2")
CLOSE = 1e-4


def ids_of(directory: Path, *, tokens: int = 40) -> torch.Tensor:
    """A text as tokens, [1, tokens]."""
    found: torch.Tensor = AutoTokenizer.from_pretrained(directory)(PARAGRAPH, return_tensors="pt").input_ids
    return found[:, :tokens]


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def ordinary(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def sparse_linears(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, SparseLinear)]


@pytest.mark.parametrize("kind", ROWS)
def test_a_sparse_model_computes_what_transformers_computes(kind: str, tmp_path: Path) -> None:
    directory = pruned_checkpoint(kind, tmp_path / "model")
    model, dense = secateur.sparse.load(directory), ordinary(directory)
    ids = ids_of(directory)
    torch.testing.assert_close(logits(model, ids), logits(dense, ids), atol=CLOSE, rtol=0)
    assert len(sparse_linears(model)) == len(model.sparse_report.sparse) > 0
    greedy = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(ids, **greedy), dense.generate(ids, **greedy))
    assert type(model) is type(dense)
    assert not any(parameter.is_meta for parameter in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize(
    ("kind", "why"), [("gpt2", "Conv1D is no plain linear"), ("mixtral", "Experts is no plain")]
)
def test_what_stays_dense_is_said(kind: str, why: str, tmp_path: Path) -> None:
    """Transposed weights of GPT-2, and experts, which transformers fuses."""
    directory = pruned_checkpoint(kind, tmp_path / "model")
    model = secateur.sparse.load(directory)
    torch.testing.assert_close(
        logits(model, ids_of(directory)), logits(ordinary(directory), ids_of(directory)), atol=CLOSE, rtol=0
    )
    assert why in "\n".join(model.sparse_report.lines)


def test_packed_weights_and_ordinary_ones_give_one_model(tmp_path: Path) -> None:
    directory = pruned_checkpoint("qwen2", tmp_path / "model", dtype="bfloat16", max_shard_size="100KB")
    from_ordinary = secateur.sparse.load(directory)
    pack_directory(directory, directory / "sparse", values="bf16")
    ids = ids_of(directory)
    for beside in (directory, directory / "sparse"):
        model = secateur.sparse.load(beside)
        assert sparse_linears(model) == sparse_linears(from_ordinary)
        assert torch.equal(logits(model, ids), logits(from_ordinary, ids))
        assert {one.values for one in model.sparse_report.sparse} == {"bf16"}
    rounded = secateur.sparse.load(directory, values="int8")
    assert {one.values for one in rounded.sparse_report.sparse} == {"int8"}
    torch.testing.assert_close(logits(rounded, ids), logits(from_ordinary, ids), atol=0.5, rtol=0)


def test_a_tied_head_and_linears_with_few_zeros_stay_dense(tmp_path: Path) -> None:
    directory = pruned_checkpoint("llama", tmp_path / "model", sparsity=0.2)
    model = secateur.sparse.load(directory)
    assert sparse_linears(model) == []
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    lines = model.sparse_report.lines
    assert lines[0] == "0 of 29 matrices are sparse"
    assert "1 stay dense: it shares its weight with the embedding" in lines
    assert any(
        line.startswith("28 stay dense: with 20% zeros the dense product is as fast") for line in lines
    )


def test_dense_kernels_of_the_same_make_compute_the_same(tmp_path: Path) -> None:
    directory = pruned_checkpoint("qwen2", tmp_path / "model")
    model, sparse = (secateur.sparse.load(directory, kernels=one) for one in ("dense", "sparse"))
    ids = ids_of(directory)
    torch.testing.assert_close(logits(model, ids), logits(sparse, ids), atol=CLOSE, rtol=0)
    assert sparse_linears(model) == []
    assert any(isinstance(module, DenseLinear) for module in model.modules())


def test_the_dense_weights_are_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight of a sparse linear, while transformers loads it, has one value in memory."""
    seen: list[int] = []
    of = SparseLinear.of

    def noted(packed: Any, bias: Any = None) -> SparseLinear:
        seen.append(packed.values.numel())
        return of(packed, bias)

    directory = pruned_checkpoint("llama", tmp_path / "model")
    sizes: list[int] = []
    loaded = AutoModelForCausalLM._model_mapping[type(AutoModelForCausalLM.from_pretrained(directory).config)]
    from_pretrained = loaded.from_pretrained

    def watched(*arguments: Any, **fields: Any) -> Any:
        model = from_pretrained(*arguments, **fields)
        linears = [one for name, one in model.named_modules() if name.endswith("_proj")]
        sizes.extend(one.weight.untyped_storage().nbytes() for one in linears)
        return model

    monkeypatch.setattr(loaded, "from_pretrained", watched)
    monkeypatch.setattr(SparseLinear, "of", noted)
    secateur.sparse.load(directory)
    assert len(seen) == len(sizes) == 28
    assert set(sizes) == {4}


def test_directories_that_cannot_be_opened_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SparseError, match=r"neither model\.safetensors nor"):
        secateur.sparse.load(tmp_path)
