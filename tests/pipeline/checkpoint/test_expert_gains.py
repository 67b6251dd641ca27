"""What experts give, against loops over a whole model in transformers, and with any number of workers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef, StatisticsRef
from pipeline.blocks.gains import router_of
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.measuring import measure_statistics
from pipeline.blocks.steps import Progress, run_through
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scoring import StoredModel
from pipeline.storage import ContentStore
from pipeline.storage.progress import StageProgress
from pipeline.tensor.needs import Needs
from tests.checkpoints import imported
from tests.model_configs import MIXTURES
from tests.models import tiny_checkpoint
from tests.simulated_device import GPU, simulated_gpu

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

NEEDS: Needs = frozenset(("channel_score", "similarity", "expert_gain", "expert_similarity"))
SAMPLES = [torch.arange(start, start + 12) for start in (2, 40, 80, 7, 120)]


def measured(
    content: ContentStore, ref: CheckpointRef, *, needs: Needs = NEEDS, workers: int = 1
) -> StatisticsRef:
    crew = LocalCrew(content, ref, SAMPLES, workers=workers)
    return run_through(measure_statistics(crew, needs, samples=len(SAMPLES)))


def by_loops(directory: Path) -> dict[int, dict[str, np.ndarray]]:
    """The sums by block of every block with experts: each token passes through its experts one by one."""
    whole = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    found: dict[int, dict[str, np.ndarray]] = {}
    for number, block in enumerate(whole.model.layers):
        if not hasattr(block.mlp, "experts"):
            continue
        count = len(block.mlp.experts.down_proj)
        sums = found[number] = {
            **{name: np.zeros(count) for name in ("tokens", "norms", "gains")},
            **{name: np.zeros((count, count)) for name in ("outputs", "logits")},
        }
        logits: list[Tensor] = []
        block.mlp.gate.register_forward_hook(lambda _, args, out, into=logits: into.append(out[0]))

        def entered(experts: torch.nn.Module, args: tuple, sums=sums, logits=logits) -> None:
            for x_H, chosen_K, gates_K, logits_E in zip(*args, logits.pop(), strict=True):
                gated: dict[int, np.ndarray] = {}
                for expert, gate in zip(chosen_K.tolist(), gates_K.tolist(), strict=True):
                    left, right = (experts.gate_up_proj[expert] @ x_H).chunk(2)
                    y_H = experts.down_proj[expert] @ (functional.silu(left) * right)
                    norm = math.sqrt(float(y_H.square().sum()))
                    sums["tokens"][expert] += 1
                    sums["norms"][expert] += norm
                    sums["gains"][expert] += gate * norm
                    gated[expert] = gate * y_H.numpy()
                for a, left_H in gated.items():
                    for b, right_H in gated.items():
                        sums["outputs"][a, b] += left_H @ right_H
                sums["logits"] += np.outer(logits_E.numpy(), logits_E.numpy())

        block.mlp.experts.register_forward_pre_hook(entered)
    for tokens in SAMPLES:
        whole(input_ids=tokens[None], use_cache=False)
    return found


@pytest.mark.parametrize("kind", [*MIXTURES, "qwen2_moe-mixed", "qwen3_moe-mixed"])
def test_experts_give_what_loops_over_the_whole_model_find(kind: str, tmp_path: Path) -> None:
    directory = tiny_checkpoint(kind, tmp_path / "model")
    content, ref = imported(directory, tmp_path / "store")
    known = StoredModel(content, CheckpointReader(content, ref), measured(content, ref)).experts()
    expected = by_loops(directory)
    assert {block for block, one in enumerate(known) if one is not None} == expected.keys()
    for block, sums in expected.items():
        facts = known[block]
        assert facts is not None
        assert facts.tokens_E.tolist() == sums["tokens"].tolist()
        assert facts.norms_E == pytest.approx(sums["norms"], rel=1e-5)
        assert facts.gains_E == pytest.approx(sums["gains"], rel=1e-5)
        assert facts.outputs_EE == pytest.approx(sums["outputs"], rel=1e-4, abs=1e-6)
        assert facts.logits_EE == pytest.approx(sums["logits"], rel=1e-4, abs=1e-5)
        used = sums["tokens"] > 0
        assert facts.saliency[used] == pytest.approx((sums["gains"] / sums["tokens"])[used], rel=1e-5)
        assert np.diag(facts.similarity)[used] == pytest.approx(1)


def test_any_number_of_workers_and_an_interruption_give_the_same_bits(tmp_path: Path) -> None:
    content, ref = imported(tiny_checkpoint("qwen2_moe", tmp_path / "model"), tmp_path / "store")
    alone = measured(content, ref)
    for workers in (2, 4):
        assert measured(content, ref, workers=workers) == alone
    progress = StageProgress(content, "1" * 64)
    crew = LocalCrew(content, ref, SAMPLES, workers=2)
    loop = measure_statistics(crew, NEEDS, samples=len(SAMPLES), progress=progress)
    while not (isinstance(step := next(loop), Progress) and step.done >= 1):
        pass
    loop.close()
    later = LocalCrew(content, ref, SAMPLES, workers=1)
    again = run_through(measure_statistics(later, NEEDS, samples=len(SAMPLES), progress=progress))
    assert again == alone
    with simulated_gpu():
        crew = LocalCrew(content, ref, SAMPLES, device=GPU)
        assert run_through(measure_statistics(crew, NEEDS, samples=len(SAMPLES))) == alone


def test_nothing_is_stored_that_was_not_asked_for(tmp_path: Path) -> None:
    content, ref = imported(tiny_checkpoint("mixtral", tmp_path / "model"), tmp_path / "store")
    plain = frozenset(("channel_score", "similarity"))
    reader = CheckpointReader(content, ref)
    assert StoredModel(content, reader, measured(content, ref, needs=plain)).experts() == (None, None)
    gains = measured(content, ref, needs=plain | {"expert_gain"})
    assert all(
        one is not None and one.outputs_EE is None for one in StoredModel(content, reader, gains).experts()
    )


def test_the_router_of_every_mixture_is_known() -> None:
    assert {kind: router_of(row_for(kind)) for kind in MIXTURES} == dict.fromkeys(MIXTURES, "mlp.gate")
    assert router_of(row_for("llama")) is None
