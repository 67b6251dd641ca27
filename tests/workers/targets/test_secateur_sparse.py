"""Sparse linears as a target: they answer as transformers does, also where weights are rounded."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TargetFailed
from pipeline.spec.targets import SecateurSparse
from tests.sparse.pruned import pruned_checkpoint
from tests.workers.targets.made_models import opening_of, with_config
from workers.targets.agreement import FLOAT32, check_target
from workers.targets.child import answers
from workers.targets.consumer import Opening
from workers.targets.opened import Answer
from workers.targets.reference import judged
from workers.targets.secateur_sparse import open_session


@pytest.fixture(scope="module")
def opening(tmp_path_factory: pytest.TempPathFactory) -> Opening:
    model = pruned_checkpoint("llama", tmp_path_factory.mktemp("served") / "model", dtype="bfloat16")
    return opening_of("secateur_sparse", model, None)


def judged_here(opening: Opening, asked: Mapping[str, object]) -> Answer:
    found: Answer = judged({"opening": asdict(opening), **asked})
    return found


@pytest.mark.slow
def test_a_fresh_process_answers_as_transformers_does(opening: Opening) -> None:
    found = check_target(opening, "secateur_sparse", judge=judged_here)
    assert (found.prompts, found.tokens, found.compared) == (4, 48, 48 * 8)
    assert found.difference < found.tolerance == FLOAT32
    assert "transformers" in found.version


@pytest.mark.parametrize("values", [None, "bf16", "int8"])
def test_rounded_weights_are_compared_with_the_same_rounded_weights(
    opening: Opening, values: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, which has the libraries already."""
    monkeypatch.setattr("workers.targets.agreement.ask", asked_here)
    found = check_target(replace(opening, values=values), "secateur_sparse", judge=judged_here)
    assert found.difference < found.tolerance == FLOAT32


def test_another_model_is_found(opening: Opening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.targets.agreement.ask", asked_here)
    other = with_config(pruned_checkpoint("llama", tmp_path / "model", dtype="bfloat16"), rms_norm_eps=0.3)
    elsewhere = replace(opening, directory=str(other))
    with pytest.raises(TargetFailed, match="secateur_sparse: after a prompt"):
        check_target(opening, "secateur_sparse", judge=lambda _, asked: judged_here(elsewhere, asked))


def test_an_answer_is_timed(opening: Opening) -> None:
    target = SecateurSparse(prompt_tokens=8, generated_tokens=4)
    asked = {"time": {"prompt": [5] * target.prompt_tokens, "tokens": target.generated_tokens}}
    found = answers(open_session(opening), asked)
    assert found["timing"]["first_token"] > 0
    assert found["timing"]["decode"] > 0


def asked_here(opening: Opening, asked: Mapping[str, Any], *, python: str = "") -> Answer:
    return answers(open_session(opening), dict(asked))
