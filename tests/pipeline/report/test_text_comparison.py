"""Perplexities stand side by side under equal contracts only, and say how much was won back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.comparison import Comparison, compare
from pipeline.evaluation.contracts import UnequalContracts
from pipeline.report.data import report_json
from pipeline.report.page import render_html
from pipeline.spec.evaluation import EvaluationResult
from tests.pipeline.report.made_report import DENSE, PRUNED, made_evaluation, made_report


@pytest.mark.parametrize("render", [render_html, report_json])
def test_unequal_contracts_are_refused(render: object) -> None:
    data = made_report().model_copy(update={"pruned": made_evaluation(PRUNED, loss=3, stride=256)})
    assert callable(render)
    with pytest.raises(
        UnequalContracts, match=r"'wiki.txt' is not comparable: stride is 512 for dense and 256"
    ):
        render(data)


def test_other_texts_are_refused() -> None:
    with pytest.raises(UnequalContracts, match="evaluate both on the same texts"):
        compare(made_evaluation(DENSE, loss=2), made_evaluation(PRUNED, loss=2, name="c4"))


def test_models_with_their_own_tokens_are_compared_by_the_byte() -> None:
    dense, cut = (
        made_evaluation(checkpoint, loss=loss).model_copy()
        for checkpoint, loss in ((DENSE, 3.0), (PRUNED, 2.5))
    )

    def cut_as(evaluation: EvaluationResult, **changes: object) -> EvaluationResult:
        (text,) = evaluation.perplexity
        contract = text.contract.model_copy(update=changes)
        return evaluation.model_copy(update={"perplexity": (text.model_copy(update={"contract": contract}),)})

    dense = cut_as(dense, tokens_per_byte=0.25)
    cut = cut_as(cut, tokens_per_byte=0.4, tokenizer_digest="other", windows=20, tokens_scored=20 * 511)
    (row,) = compare(dense, cut, own_tokenizers=True)
    assert (row.dense, row.pruned) == pytest.approx((math.exp(0.75), math.exp(1.0)))
    assert row.ratio == pytest.approx(math.exp(0.25))  # a lower loss by the token, and worse by the byte
    assert (row.per, row.title) == ("byte", "wiki.txt, per byte")
    with pytest.raises(UnequalContracts, match="tokenizer_digest"):
        compare(dense, cut)
    with pytest.raises(UnequalContracts, match="stride"):
        compare(dense, cut_as(cut, stride=256), own_tokenizers=True)
    with pytest.raises(UnequalContracts, match="without tokens per byte"):
        compare(dense, cut_as(cut, tokens_per_byte=None), own_tokenizers=True)


@given(st.floats(1.5, 1e3), st.floats(1.01, 1e3), st.floats(-0.5, 1.5))
def test_recovered_share_is_a_share_of_the_lost_log_perplexity(
    dense: float, worse: float, share: float
) -> None:
    pruned = dense * worse
    recovered = math.exp(math.log(pruned) - share * (math.log(pruned) - math.log(dense)))
    contract = made_evaluation(DENSE, loss=2).perplexity[0].contract
    row = Comparison(
        name="t", dense=dense, pruned=pruned, recovered=recovered, ratio=recovered / dense, contract=contract
    )
    assert row.recovered_share == pytest.approx(share, abs=1e-6)
    assert row.final == recovered
    assert row.model_copy(update={"pruned": None}).recovered_share is None
    assert row.model_copy(update={"pruned": dense * 0.99}).recovered_share is None
