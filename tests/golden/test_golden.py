"""Our masks, outlier ratios, plans and losses are those of the published implementations.

A reference directory holds a tiny model, its calibration tokens, and what the original code made of them.
SECATEUR_GOLDEN_DIR names it; any directory of the same layout does, so everything that a case means is read
from there: method, pattern and allocation from the case's name, the allocation's parameters from golden.json.
"""

import functools
import json
import math
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.allocations import Allocation
from pipeline.allocations.owl import Owl
from pipeline.allocations.uniform import Uniform
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.losses import sequence_losses
from pipeline.blocks.pruning import pruned_checkpoint
from pipeline.blocks.steps import run_through
from pipeline.methods import Method
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import NM, Pattern, Unstructured
from tests import oracles
from tests.checkpoints import imported
from tests.sweeping import prune_in_process

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = Path(os.environ.get("SECATEUR_GOLDEN_DIR") or ROOT.parent / "shared" / "golden")
PRESENT = (DIRECTORY / "golden.json").is_file()
METHODS: dict[str, Method] = {
    "magnitude": Magnitude(),
    "wanda": Wanda(),
    "wanda_variant": Wanda(variant=True),
    "sparsegpt": SparseGPT(),
}
FLIPS = {"sparsegpt": 0.001}  # its masks follow roundings, which differ between processors
SOLVED = 1e-3  # relative distance of new weights from the published ones
CASE = re.compile(
    rf"(?P<owl>owl_)?(?P<method>{'|'.join(METHODS)})(?P<mixed>_mixed)?"
    r"_((?P<keep>\d+)of(?P<group>\d+)|(?P<sparsity>[\d.]+))"
)
NM_PLAN = re.compile(r"owl_nm_zeros_per_(?P<group>\d+) \(start (?P<zeros>\d+), lambda (?P<spread>[\d.]+)\)")
UNSTRUCTURED_PLAN = re.compile(r"owl_sparsity_(?P<sparsity>[\d.]+)")

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not PRESENT, reason=f"no golden.json in {DIRECTORY}; set SECATEUR_GOLDEN_DIR"),
]


@dataclass(frozen=True)
class PrunedTiny:
    """What pruning the tiny model gave. Tensors are keyed by the weight's name in the checkpoint.

    `input_norms`: of the dense model. `outlier_ratios`: percent per block, empty when the allocation asks for
    none. `heldout_loss`: of the pruned model, read back from the store.
    """

    keep: dict[str, Tensor]
    weights: dict[str, Tensor]
    input_norms: dict[str, Tensor]
    outlier_ratios: tuple[float, ...]
    heldout_loss: float


@torch.no_grad()
def prune_tiny(
    model_dir: Path, tokens: dict[str, Tensor], method: Method, allocation: Allocation, pattern: Pattern
) -> PrunedTiny:
    """Through the loops that a job runs, block by block, from and to a store."""
    with tempfile.TemporaryDirectory() as directory:
        content, checkpoint = imported(model_dir, Path(directory))
        samples = list(tokens["calibration_ids"].long())
        pruned = prune_in_process(
            content, checkpoint, samples, method=method, allocation=allocation, pattern=pattern
        )
        held_out = list(tokens["heldout_ids"].long())
        crew = LocalCrew(content, pruned_checkpoint(content, checkpoint, pruned.made), held_out)
        outcomes = run_through(sequence_losses(crew, [len(ids) - 1 for ids in held_out]))
    loss = math.fsum(total / count for total, count in outcomes) / len(outcomes)
    return PrunedTiny(pruned.keep, pruned.weights, pruned.dense_norms, pruned.measured, loss)


@functools.cache
def golden() -> dict[str, Any]:
    """golden.json, or nothing where there is none."""
    return json.loads((DIRECTORY / "golden.json").read_text()) if PRESENT else {"cases": {}}


@functools.cache
def tokens() -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = load_file(DIRECTORY / "tokens.safetensors")
    return loaded


def pruned(method: Method, allocation: Allocation, pattern: Pattern) -> PrunedTiny:
    """prune_tiny on the reference model, single-threaded as the reference."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return prune_tiny(DIRECTORY / "tiny_llama", tokens(), method, allocation, pattern)
    finally:
        torch.set_num_threads(before)


def case_parts(name: str) -> tuple[Method, Allocation, Pattern]:
    """What a case's name says. N:M in names counts kept weights: 3of8 keeps 3."""
    match = CASE.fullmatch(name)
    assert match is not None
    method = METHODS[match["method"]]
    if match["sparsity"]:
        pattern: Pattern = Unstructured(sparsity=float(match["sparsity"]), rounding="floor")
    else:
        pattern = NM(keep=int(match["keep"]), group=int(match["group"]), rounding="floor")
    if not match["owl"]:
        return method, Uniform(), pattern
    return method, owl_for(pattern), pattern


def owl_for(pattern: Pattern) -> Owl:
    """OWL as golden.json parametrises it; the N:M spread stands in the key of its plan."""
    owl = Owl(multiplier=golden()["multiplier_M"], spread=golden()["lambda"])
    for key in golden():
        plan = NM_PLAN.fullmatch(key)
        if (
            plan
            and isinstance(pattern, NM)
            and (int(plan["group"]), int(plan["zeros"]))
            == (
                pattern.group,
                pattern.group - pattern.keep,
            )
        ):
            return owl.model_copy(update={"nm_spread": float(plan["spread"])})
    assert isinstance(pattern, Unstructured), f"golden.json has no N:M plan for {pattern}"
    return owl


def off_where_masks_agree(got_OI: Tensor, want_OI: Tensor, keep_OI: Tensor, kept_OI: Tensor) -> float | None:
    """The relative distance of two solutions over the rows with equal masks; None where there is no such row.

    A solver moves what a pruned weight did to the rest of its row, so one flipped near-tie changes the whole
    row. Such rows are counted against the allowed flips, and their weights say nothing."""
    rows_O = (keep_OI == kept_OI).all(dim=1)
    if not rows_O.any():
        return None
    both_OI = kept_OI[rows_O]
    return float((got_OI - want_OI)[rows_O][both_OI].norm() / want_OI[rows_O][both_OI].norm())


CASES = [name for name in golden()["cases"] if CASE.fullmatch(name)]


@pytest.mark.parametrize("name", CASES or ["none"])
def test_a_case_has_the_published_keep_tensors_zeros_and_loss(name: str) -> None:
    assert name != "none", f"{DIRECTORY}/golden.json lists no case of {sorted(METHODS)}"
    expected = golden()["cases"][name]
    got = pruned(*case_parts(name))

    reference = load_file(DIRECTORY / f"{name}.keep.safetensors")
    assert got.keep.keys() == reference.keys()
    differing = {
        key: n for key, keep in reference.items() if (n := int((got.keep[key] != keep.bool()).sum()))
    }
    flips = math.floor(FLIPS.get(name.removeprefix("owl_").partition("_")[0], 0) * expected["of"])
    assert sum(differing.values()) <= flips, differing
    zeros = sum(int((weight == 0).sum()) for weight in got.weights.values())
    assert abs(zeros - expected["zeros"]) <= flips
    assert sum(weight.numel() for weight in got.weights.values()) == expected["of"]
    assert got.heldout_loss == pytest.approx(expected["heldout_loss"], abs=1e-3)
    solved = DIRECTORY / f"{name}.weights.safetensors"
    if not solved.is_file():
        return
    for key, weight_OI in load_file(solved).items():
        kept_OI = reference[key].bool()
        off = off_where_masks_agree(got.weights[key], weight_OI, got.keep[key], kept_OI)
        assert off is not None, f"{key}: no row has the published mask"
        assert off < SOLVED, key


def test_a_flipped_near_tie_takes_its_row_out_of_the_comparison_of_weights_and_no_other() -> None:
    want_OI = torch.arange(1.0, 13.0).reshape(3, 4)
    kept_OI = torch.tensor([[True, True, False, False]] * 3)
    flipped_OI = kept_OI.clone()
    flipped_OI[1] = torch.tensor([True, False, True, False])
    got_OI = want_OI.clone()
    got_OI[1] += 5
    assert off_where_masks_agree(got_OI, want_OI, flipped_OI, kept_OI) == 0
    got_OI[2, 0] += 5  # a row whose mask agrees
    off = off_where_masks_agree(got_OI, want_OI, flipped_OI, kept_OI)
    assert off == pytest.approx(5 / math.sqrt(1 + 4 + 81 + 100))
    assert off_where_masks_agree(got_OI, want_OI, ~kept_OI, kept_OI) is None


def test_input_norms_of_the_dense_model_are_the_published_ones() -> None:
    got = pruned(Wanda(), Uniform(), Unstructured(sparsity=0))
    reference = load_file(DIRECTORY / "dense_scaler_row.safetensors")
    assert got.input_norms.keys() == reference.keys()
    for name, scaler_row_I in reference.items():
        torch.testing.assert_close(got.input_norms[name].square(), scaler_row_I, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rounding", ["exact", "floor"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_sparsity_0_leaves_the_model_dense(method: Method, rounding: str) -> None:
    got = pruned(method, Uniform(), Unstructured.model_validate({"sparsity": 0, "rounding": rounding}))
    assert all(keep.all() for keep in got.keep.values())
    assert got.heldout_loss == pytest.approx(golden()["dense"]["heldout_loss"], abs=1e-3)


def test_the_perplexity_oracle_agrees_with_the_published_logits_and_loss() -> None:
    logits = load_file(DIRECTORY / "dense_logits.safetensors")["logits"]
    perplexity = oracles.perplexity(logits.numpy(), tokens()["heldout_ids"].numpy())
    assert math.log(perplexity) == pytest.approx(golden()["dense"]["heldout_loss"], abs=1e-5)


def test_measured_outlier_ratios_are_the_published_ones() -> None:
    expected = golden()["outlier_ratio_percent"]
    got = pruned(Wanda(), owl_for(Unstructured(sparsity=0.5)), Unstructured(sparsity=0.5))
    assert got.outlier_ratios == pytest.approx(expected, rel=0, abs=1e-9)


def test_owl_plans_are_the_published_ones() -> None:
    ratios = tuple(golden()["outlier_ratio_percent"])
    weights = [{"linear": 1000}] * len(ratios)
    checked = 0
    for key, expected in golden().items():
        if match := UNSTRUCTURED_PLAN.fullmatch(key):
            pattern: Pattern = Unstructured(sparsity=float(match["sparsity"]))
            plan = owl_for(pattern).plan(pattern, weights, measured=ratios)
            assert plan.sparsity == pytest.approx(expected, rel=0, abs=1e-9)
            checked += 1
        elif match := NM_PLAN.fullmatch(key):
            group, zeros = int(match["group"]), int(match["zeros"])
            pattern = NM(keep=group - zeros, group=group, rounding="floor")
            plan = owl_for(pattern).plan(pattern, weights, measured=ratios)
            assert [block.group - block.keep for block in plan.blocks if isinstance(block, NM)] == expected
            checked += 1
    assert checked > 0, f"{DIRECTORY}/golden.json holds no OWL plan"
