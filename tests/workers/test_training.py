"""The trainer against plain torch, under every ZeRO stage; zeros held; nothing lost with a worker."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from pipeline.artifacts.certificate import Certificate
from pipeline.checkpoint.keeps import load_keep
from pipeline.errors import ZerosLost
from tests.workers.crews import losing_a_worker
from tests.workers.outcomes import curve_of, weights_of
from tests.workers.training_runs import Call, Folder, Outcome, Prepared, run_all, run_one
from workers.harness.files import materialise_checkpoint
from workers.training.data import TrainingData, checksum

STAGES = (1, 2, 3)

pytestmark = pytest.mark.slow


def plain_torch(tiny: Prepared, tmp_path: Path, steps: int = 6) -> tuple[list[float], dict[str, Tensor]]:
    """The same recipe in a dozen lines: one process, float32, torch's AdamW, gradients masked."""
    work = tiny.work()
    recovery = work.stage.recovery
    tmp_path.mkdir()
    materialise_checkpoint(tiny.pruned, tiny.content, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    keeps = load_keep(tiny.content, tiny.pruned, tiny.keep)
    data = TrainingData(tiny.content, tiny.tokens, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    losses = []
    for step in range(steps):
        rows = data.sequences(range(step * 4, step * 4 + 4))
        loss = sum(
            nn.functional.cross_entropy(model(input_ids=row[None]).logits[0, :-1], row[1:]) for row in rows
        )
        (loss / 4).backward()
        for name, parameter in model.named_parameters():
            if name in keeps:
                parameter.grad.masked_fill_(~keeps[name], 0)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recovery.learning_rate.at(step, steps=steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()) / 4)
    return losses, {name: value.detach() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_zero_stage_trains_as_plain_torch_does(tiny: Prepared, tmp_path: Path, workers: int) -> None:
    kinds = [(stage, precision) for stage in STAGES for precision in ("float32", "bfloat16")]
    calls = [
        Call(
            tiny.work({"precision": precision}, {"zero_stage": stage}),
            Folder(tmp_path / f"{stage}-{precision}"),
        )
        for stage, precision in kinds
    ]
    losses, weights = plain_torch(tiny, tmp_path / "plain")
    for (stage, precision), outcome in zip(kinds, run_all(tmp_path, calls, workers=workers), strict=True):
        curve = curve_of(tiny, outcome)
        difference = max(abs(r.loss - loss) for r, loss in zip(curve.steps, losses, strict=True))
        assert difference < (2e-6 if precision == "float32" else 2e-2), (stage, precision)
        if precision == "float32":
            trained = weights_of(tiny, outcome)
            assert max(float((trained[n] - weights[n]).abs().max()) for n in trained) < 5e-5, stage
        assert_zeros_held(tiny, outcome, steps=6)


def assert_zeros_held(tiny: Prepared, outcome: Outcome, *, steps: int) -> None:
    """In the stored weights, and by the certificate at each step."""
    assert outcome.result is not None
    weights = weights_of(tiny, outcome)
    keeps = load_keep(tiny.content, tiny.pruned, tiny.keep)
    held = sum(int((~keep).sum()) for keep in keeps.values())
    assert held > 10_000
    for name, keep in keeps.items():
        assert not weights[name][~keep].any()
    data = tiny.content.get_bytes(outcome.result.artifacts["certificate"].file("certificate.json"))
    certificate = Certificate.model_validate_json(data)
    assert [check.step for check in certificate.checks if check.at == "step"] == list(range(steps + 1))
    assert {check.at for check in certificate.checks} == {"mask", "step", "gather", "save"}
    assert all(check.held == check.zeros == held for check in certificate.checks)


def test_a_lost_worker_costs_no_sequence_and_others_may_go_on(tiny: Prepared, tmp_path: Path) -> None:
    """Of two workers under ZeRO 2 one is killed, then of two under ZeRO 3; one under ZeRO 1 ends it."""
    for stage, step in ((2, 4), (3, 6)):
        work = tiny.work({"steps": 8}, {"zero_stage": stage})
        with losing_a_worker():
            run_one(tmp_path, work, workers=2, dies_at=(1, step))
    outcome = run_one(tmp_path, tiny.work({"steps": 8}), workers=1)

    curve = curve_of(tiny, outcome)
    assert [(record.step, record.started, record.workers) for record in curve.steps] == [
        (1, 1, 2), (2, 1, 2), (3, 2, 2), (4, 2, 2), (5, 3, 1), (6, 3, 1), (7, 3, 1), (8, 3, 1)
    ]  # fmt: skip
    data = TrainingData(tiny.content, tiny.tokens, seed=0)
    for i, record in enumerate(curve.steps):
        assert (record.first_sequence, record.end_sequence) == (4 * i, 4 * i + 4)
        assert record.data_checksum == checksum(data.sequences(range(4 * i, 4 * i + 4)))
    losses, weights = plain_torch(tiny, tmp_path / "plain", steps=8)
    assert [record.loss for record in curve.steps] == pytest.approx(losses, abs=2e-6)
    trained = weights_of(tiny, outcome)
    assert max(float((trained[name] - weights[name]).abs().max()) for name in trained) < 5e-5
    assert_zeros_held(tiny, outcome, steps=8)


def plant_a_revival() -> None:
    """An optimizer that moves one weight at its third step, whatever its gradient was. It is called once for
    matrices and once for vectors."""
    taken = 0
    honest = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: object, **kwargs: object) -> object:
        nonlocal taken
        taken += 1
        answer = honest(self, *args, **kwargs)
        if taken == 5:
            flat = self.param_groups[0]["params"][0]
            zeros = (flat == 0).nonzero()
            flat.data[zeros[len(zeros) // 2]] = 0.25
        return answer

    torch.optim.AdamW.step = step


@pytest.mark.parametrize("workers", [1, 2])
def test_a_weight_that_comes_back_is_named(tiny: Prepared, tmp_path: Path, workers: int) -> None:
    outcome = run_all(
        tmp_path, [Call(tiny.work(), Folder(tmp_path / "a"), plant_a_revival)], workers=workers
    )[0]
    assert outcome.result is None
    assert isinstance(outcome.error, ZerosLost)
    found = re.search(r"(\S+)\[(\d+), (\d+)\] \((\w+)\) is 0.25 at step 3", outcome.error.message)
    assert found is not None, outcome.error.message
    keep = load_keep(tiny.content, tiny.pruned, tiny.keep)[found[1]]
    assert not keep[int(found[2]), int(found[3])]
