"""Masks learned by the trainer, under every ZeRO stage; weights stay; nothing is lost with a worker."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.keeps import load_keep
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import CorruptObject
from pipeline.job.ledger import progress_key
from pipeline.spec.patterns import NM
from pipeline.tensor.soft_masks import Draw, candidates, chosen, key_of, prior_logits
from pipeline.tensor.zeros import first_bad_group
from tests.pipeline.tensor.test_soft_masks import plain
from tests.workers.crews import losing_a_worker
from tests.workers.outcomes import curve_of, keeps_of, stored
from tests.workers.training_runs import Call, Folder, Prepared, prepare, run_all, run_one
from workers.context import Note
from workers.harness.files import materialise_checkpoint
from workers.training.certified import kept_as_they_were
from workers.training.data import TrainingData
from workers.training.mask_blocks import LearnedBlock
from workers.training.masked import draw_at
from workers.training.stored import Stored

TWO_OF_FOUR = NM(keep=2, group=4)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("masks"), pattern=TWO_OF_FOUR)


def plain_torch(tiny: Prepared, tmp_path: Path) -> tuple[list[float], dict[str, Tensor]]:
    """The same recipe written down once more: one process, float32, torch's AdamW, masks by the formula."""
    work = tiny.learning()
    training = work.stage.training
    tmp_path.mkdir()
    materialise_checkpoint(tiny.dense, tiny.content, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model.requires_grad_(False)
    masks_CM = candidates(2, 4)
    prior = load_keep(tiny.content, tiny.dense, tiny.keep)
    dense = {name: model.get_parameter(name).clone() for name in prior}
    logits = {name: prior_logits(keep, masks_CM, strength=3).requires_grad_() for name, keep in prior.items()}
    data = TrainingData(tiny.content, tiny.tokens, seed=0)
    optimizer = torch.optim.AdamW(logits.values(), betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
    losses = []
    for step in range(6):
        scale, temperature = draw_at(training, step)
        masked = {
            name: plain(
                weight, logits[name], masks_CM,
                Draw(scale, temperature, key_of(0, step, name.removesuffix(".weight"))),
            )
            for name, weight in dense.items()
        }  # fmt: skip
        loss = torch.zeros(())
        for row in data.sequences(range(step * 4, step * 4 + 4)):
            output = torch.func.functional_call(model, masked, kwargs={"input_ids": row[None]})
            loss = loss + nn.functional.cross_entropy(output.logits[0, :-1], row[1:]) / 4
        loss.backward()
        nn.utils.clip_grad_norm_(logits.values(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate.at(step, steps=6)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, {name: chosen(one.detach(), masks_CM, dense[name].shape) for name, one in logits.items()}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_zero_stage_learns_as_plain_torch_does(tiny: Prepared, tmp_path: Path, workers: int) -> None:
    kinds = [(stage, precision) for stage in (1, 2, 3) for precision in ("float32", "bfloat16")]
    calls = [
        Call(
            tiny.learning(
                {"precision": precision}, {"zero_stage": stage}, key=f"{stage}-{precision}-{workers}"
            ),
            Folder(tmp_path / f"{stage}-{precision}"),
        )
        for stage, precision in kinds
    ]
    losses, masks = plain_torch(tiny, tmp_path / "plain")
    for (stage, precision), outcome in zip(kinds, run_all(tmp_path, calls, workers=workers), strict=True):
        curve = curve_of(tiny, outcome)
        difference = max(abs(r.loss - loss) for r, loss in zip(curve.steps, losses, strict=True))
        # bfloat16 rounds the logits that draws are made of, too
        assert difference < (1e-4 if precision == "float32" else 0.1), (stage, precision)
        keeps = keeps_of(tiny, outcome)
        same = [float((keeps[name] == masks[name]).float().mean()) for name in masks]
        assert min(same) > (0.999 if precision == "float32" else 0.9), (stage, precision)
        assert [one.step for one in curve.masks] == [0, 3, 6]
        assert all(one.changed == 0 for one in curve.masks[0].blocks)
        assert any(one.changed > 0 for one in curve.masks[-1].blocks)
        assert curve.masks[-1].temperature == pytest.approx(0.1)
        assert curve.masks[-1].blocks[0].entropy < curve.masks[0].blocks[0].entropy


def test_kept_weights_are_the_dense_ones_to_the_bit(tiny: Prepared, tmp_path: Path) -> None:
    outcome = run_one(tmp_path, tiny.learning(key="bits"), workers=2)
    checkpoint, _ = stored(outcome)
    before, after = CheckpointReader(tiny.content, tiny.dense), CheckpointReader(tiny.content, checkpoint)
    keeps = keeps_of(tiny, outcome)
    assert before.index.tensors.keys() == after.index.tensors.keys()
    for name in before.index.tensors:
        expected = before.tensor(name)
        if name in keeps:
            assert first_bad_group(keeps[name], keep=2, group=4) is None
            expected = expected.masked_fill(~keeps[name], 0)
        assert torch.equal(after.tensor(name).view(torch.int32), expected.view(torch.int32)), name
    assert outcome.result is not None
    data = tiny.content.get_bytes(outcome.result.artifacts["certificate"].file("certificate.json"))
    certificate = Certificate.model_validate_json(data)
    assert {check.at for check in certificate.checks} == {"frozen", "gather", "save"}
    assert all(one.nm == (2, 4) for one in certificate.tensors)
    assert certificate.holds


def test_a_kept_weight_that_changed_is_found(tiny: Prepared) -> None:
    moved = Stored(step=1, checkpoint=tiny.pruned, keep=tiny.keep)
    kept_as_they_were(tiny.content, tiny.dense, moved)  # magnitude leaves values alone
    with pytest.raises(CorruptObject, match="has changed"):
        kept_as_they_were(tiny.content, _other_weights(tiny), moved)


def _other_weights(tiny: Prepared) -> CheckpointRef:
    from pipeline.checkpoint.assemble import StoredTensors, assemble
    from pipeline.checkpoint.writer import put_tensors

    reader = CheckpointReader(tiny.content, tiny.dense)
    tensors = {name: reader.tensor(name) * 1.5 for name in reader.index.tensors}
    part = StoredTensors.of(put_tensors(tiny.content, "part.safetensors", tensors))
    return assemble(tiny.content, tiny.dense, [part])


def test_learning_beats_its_prior_and_a_random_start(tiny: Prepared, tmp_path: Path) -> None:
    recipe = {"steps": 20, "validate_every_steps": 20}
    calls = [
        Call(tiny.learning(recipe, key="with"), Folder(tmp_path / "with")),
        Call(tiny.learning(recipe, prior=False, key="without"), Folder(tmp_path / "without")),
    ]
    with_prior, without = (curve_of(tiny, one) for one in run_all(tmp_path, calls, workers=1))
    assert with_prior.validations[-1].loss < with_prior.validations[0].loss
    assert without.validations[-1].loss < without.validations[0].loss


def test_the_likeliest_masks_of_the_first_step_are_the_prior(tiny: Prepared, tmp_path: Path) -> None:
    still = {"steps": 1, "learning_rate": {"peak": 1e-9, "warmup_steps": 0}}
    outcome = run_one(tmp_path, tiny.learning(still, key="still"))
    prior = load_keep(tiny.content, tiny.dense, tiny.keep)
    keeps = keeps_of(tiny, outcome)
    assert all(torch.equal(keeps[name], prior[name]) for name in prior)


def test_a_killed_worker_costs_nothing_but_time(tiny: Prepared, tmp_path: Path) -> None:
    whole = run_one(tmp_path / "whole", tiny.learning(key="whole"), workers=2)
    with losing_a_worker():
        run_one(tmp_path / "cut", tiny.learning(key="cut"), workers=2, dies_at=(1, 4))
    again = run_one(tmp_path / "cut", tiny.learning(key="cut"), workers=1)
    expected, curve = curve_of(tiny, whole), curve_of(tiny, again)
    assert curve.starts == 2
    for one, two in zip(curve.steps, expected.steps, strict=True):
        assert one.loss == pytest.approx(two.loss, abs=1e-5)
        assert one.data_checksum == two.data_checksum
    for mine, other in zip(curve.masks, expected.masks, strict=True):
        assert [b.changed for b in mine.blocks] == pytest.approx([b.changed for b in other.blocks], abs=1e-3)
    masks, same = keeps_of(tiny, again), keeps_of(tiny, whole)
    assert min(float((masks[name] == same[name]).float().mean()) for name in masks) > 0.999


def test_distillation_from_its_own_dense_weights(tiny: Prepared, tmp_path: Path) -> None:
    taught = {"objective": {"kind": "distillation", "lm_weight": 0.0}}
    calls = [
        Call(tiny.learning(taught, {"zero_stage": stage}, key=f"kd-{stage}"), Folder(tmp_path / str(stage)))
        for stage in (1, 3)
    ]
    first, third = (curve_of(tiny, one) for one in run_all(tmp_path, calls, workers=2))
    assert first.steps[0].loss > 0
    for one, two in zip(first.steps, third.steps, strict=True):
        assert one.loss == pytest.approx(two.loss, abs=1e-4)
        assert one.loss != pytest.approx(one.language_modelling_loss, abs=1e-3)


def test_large_weights_are_rewarded(tiny: Prepared, tmp_path: Path) -> None:
    """With nothing but the reward to gain, the masks become nearly those of magnitude."""
    recipe = {
        "steps": 30,
        "weight_reward": 1.0,
        "learning_rate": {"peak": 2e-2, "warmup_steps": 0},
        "optimizer": {"gradient_clipping": None},
        "validate_every_steps": 30,
    }
    outcome = run_one(tmp_path, tiny.learning(recipe, prior=False, key="reward"))
    magnitude = load_keep(tiny.content, tiny.dense, tiny.keep)
    keeps, reader = keeps_of(tiny, outcome), CheckpointReader(tiny.content, tiny.dense)
    kept = sum(float((reader.tensor(name) * keeps[name]).square().sum()) for name in keeps)
    most = sum(float((reader.tensor(name) * magnitude[name]).square().sum()) for name in keeps)
    assert kept > 0.9 * most  # masks at random keep about 0.6 of it
    first = curve_of(tiny, outcome).steps[0]
    assert first.loss == first.language_modelling_loss  # rewards are no part of what is told


def test_gradient_checkpointing_draws_the_same(tiny: Prepared, tmp_path: Path) -> None:
    calls = [
        Call(
            tiny.learning(None, {"gradient_checkpointing": on}, key=f"checkpointing-{on}"),
            Folder(tmp_path / str(on)),
        )
        for on in (False, True)
    ]
    plainly, again = (curve_of(tiny, one) for one in run_all(tmp_path, calls, workers=1))
    for one, two in itertools.zip_longest(plainly.steps, again.steps):
        assert one.loss == pytest.approx(two.loss, abs=1e-6)
        assert one.gradient_norm == pytest.approx(two.gradient_norm, rel=1e-4)


BLOCKWISE = {"scope": "block", "epochs": 6, "learning_rate": {"peak": 2e-2, "warmup_steps": 0}}


def test_block_by_block(tiny: Prepared, tmp_path: Path) -> None:
    """Every block comes nearer to the dense one; masks are whole, weights stay; two workers as one."""
    calls = [
        Call(
            tiny.learning(BLOCKWISE, prior=prior, key=f"block-{prior}"),
            Folder(tmp_path / str(prior)),
        )
        for prior in (True, False)
    ]
    alone = run_all(tmp_path / "one", calls, workers=1)
    for outcome in alone:
        curve = curve_of(tiny, outcome)
        assert len(curve.blocks) == len(tiny.patterns)
        assert all(fit.after <= fit.before for fit in curve.blocks)
        assert sum(fit.after < 0.95 * fit.before for fit in curve.blocks) > len(curve.blocks) // 2
        assert curve.masks[-1].blocks[0].changed > 0
        checkpoint, keep = stored(outcome)
        kept_as_they_were(tiny.content, tiny.dense, Stored(step=6, checkpoint=checkpoint, keep=keep))
        assert all(first_bad_group(one, keep=2, group=4) is None for one in keeps_of(tiny, outcome).values())
    shared = run_one(tmp_path / "two", tiny.learning(BLOCKWISE, key="shared"), workers=2)
    masks, same = keeps_of(tiny, alone[0]), keeps_of(tiny, shared)
    first = [
        name for name in masks if ".layers.0." in name
    ]  # one mask that rounding moves changes all after it
    assert min(float((masks[name] == same[name]).float().mean()) for name in first) > 0.98
    pairs = zip(curve_of(tiny, alone[0]).blocks, curve_of(tiny, shared).blocks, strict=True)
    assert all(one.after == pytest.approx(two.after, rel=0.1) for one, two in pairs)


def test_block_by_block_goes_on_after_the_last_stored_block(tiny: Prepared, tmp_path: Path) -> None:
    whole = run_one(tmp_path / "whole", tiny.learning(BLOCKWISE, key="b-whole"))
    work = tiny.learning(BLOCKWISE, key="b-cut")
    kept = tiny.content.get_model(progress_key("b-whole", "fitted-00000"), LearnedBlock)
    tiny.content.put_model(progress_key("b-cut", "fitted-00000"), kept)
    again = run_one(tmp_path / "cut", work)
    assert any(isinstance(one, Note) and "learned already" in one.text for one in again.told)
    assert stored(again)[0].digest == stored(whole)[0].digest
    assert stored(again)[1].digest == stored(whole)[1].digest
