"""A head that stays dense is read in bfloat16, if that holds its weights to the bit."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import secateur.sparse
from secateur.sparse import operators
from secateur.sparse.dense import DenseLinear
from secateur.sparse.worth import READS_BFLOAT16
from tests.sparse.pruned import pruned_checkpoint
from tests.sparse.test_loading import CLOSE, ids_of, logits

SAID = "the head is read in bfloat16, which holds its weights to the bit"


@pytest.mark.parametrize("kind", ["llama", "opt", "gemma2", "gpt_neox", "falcon", "bloom"])
def test_a_head_in_bfloat16_computes_the_same(kind: str, tmp_path: Path) -> None:
    """Tied heads and others. lm-eval ties weights again, which must change nothing."""
    if operators.backend() not in READS_BFLOAT16:
        pytest.skip("without vector instructions torch's own product is as fast")
    directory = pruned_checkpoint(kind, tmp_path / "model", dtype="bfloat16")
    model = secateur.sparse.load(directory)
    dense = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    assert isinstance(model.get_output_embeddings(), DenseLinear)
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert SAID in model.sparse_report.lines
    model.tie_weights()
    ids = ids_of(directory)
    torch.testing.assert_close(logits(model, ids), logits(dense, ids), atol=CLOSE, rtol=0)


def test_a_head_that_would_be_rounded_stays(tmp_path: Path) -> None:
    model = secateur.sparse.load(pruned_checkpoint("llama", tmp_path / "model", dtype="float32"))
    assert isinstance(model.get_output_embeddings(), nn.Linear)
    assert SAID not in model.sparse_report.lines
