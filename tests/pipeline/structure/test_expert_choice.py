"""What a spec asks of experts, how many may stay, and into which of them the others are merged."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.architecture.rows import row_for
from pipeline.dag.stages.structure import Slice, sweep_needs
from pipeline.errors import InvalidSpec
from pipeline.spec.structure import Structure
from pipeline.structure.choosing import choose
from pipeline.structure.cut import BlockCut, Cut
from pipeline.structure.expert_facts import ExpertFacts
from pipeline.structure.expert_table import ExpertGainTable
from pipeline.structure.experts import ExpertChoice, nearest
from pipeline.structure.scores import BlockScores, ModelScores
from pipeline.structure.sizes import sizes_of
from tests.model_configs import tiny_config

MIXTRAL = json.loads(tiny_config("mixtral").to_json_string(use_diff=False))
ROW = row_for("mixtral")
GROUPED = {**MIXTRAL, "num_local_experts": 16, "n_group": 4, "topk_group": 2}


class Facts:
    """What is known of two blocks with four experts; nothing else may be asked for."""

    def __init__(self, *facts: ExpertFacts | None) -> None:
        self.facts = facts

    def experts(self) -> tuple[ExpertFacts | None, ...]:
        return self.facts


def known(tokens: list[float], gains: list[float], alike: np.ndarray | None = None) -> ExpertFacts:
    products = (alike, alike) if alike is not None else ()
    return ExpertFacts(
        np.array(tokens, float), np.arange(len(tokens)) + 0.5, np.array(gains, float), *products
    )


def even_scores(experts: int, blocks: int = 2) -> ModelScores:
    one = BlockScores(heads_A=np.zeros(4), experts_E=np.zeros(experts), expert_ffn_EG=np.zeros((experts, 32)))
    return ModelScores(np.zeros(64), (one,) * blocks)


def kept(criterion: dict, *facts: ExpertFacts | None, count: int = 2) -> list[tuple[int, ...]]:
    structure = Structure.model_validate({"num_experts": count, "experts": {"criterion": criterion}})
    assert structure.experts is not None
    old, new = sizes_of(ROW, MIXTRAL), structure.target(ROW, MIXTRAL)
    scores = structure.experts.ranked(even_scores(4), Facts(*facts))
    cut = structure.experts.applied(choose(scores, old, new, (0, 1)), Facts(*facts))
    return [block.experts for block in cut.blocks]


class TestTheSpec:
    def test_a_structure_without_it_is_dumped_as_before(self) -> None:
        """Stage keys follow from what is dumped."""
        dumped = Slice(structure=Structure(num_experts=2)).model_dump(mode="json")
        assert "experts" not in dumped["structure"]
        assert "merged" not in BlockCut(block=0).model_dump()
        assert sweep_needs(Structure(num_experts=2)) == ("channel_score", "similarity")

    def test_the_sweep_measures_what_is_asked_for(self) -> None:
        def needs(experts: dict, **more: object) -> tuple[str, ...]:
            return sweep_needs(Structure.model_validate({"num_experts": 2, "experts": experts, **more}))

        assert "expert_gain" in needs({})
        assert "expert_similarity" not in needs({})
        merged = needs({"criterion": {"kind": "random"}, "others": "merged"})
        assert merged == tuple(sorted(merged))
        assert {"expert_gain", "expert_similarity"} <= {*merged}
        plain = {"num_experts": 2, "experts": {"criterion": {"kind": "random"}}}
        assert not Structure.model_validate(plain).needs_samples
        assert Structure.model_validate(
            {**plain, "intermediate_size": 8}
        ).needs_samples  # by its own criterion

    @pytest.mark.parametrize(
        ("asked", "says", "where"),
        [
            ({"hidden_size": 32, "experts": {}}, "say how many with num_experts", ("experts",)),
            (
                {
                    "num_experts": 2,
                    "experts": {"criterion": {"kind": "explicit", "blocks": {0: [1], 1: [0, 2]}}},
                },
                "block 0 names 1 different experts in 1 numbers, and num_experts=2",
                ("experts", "criterion", "blocks", 0),
            ),
            (
                {"num_experts": 2, "experts": {"criterion": {"kind": "explicit", "blocks": {0: [1, 1]}}}},
                "1 different experts in 2 numbers",
                ("experts", "criterion", "blocks", 0),
            ),
            (
                {"criterion": {"kind": "explicit", "cut": {"blocks": [{"block": 0}]}}, "experts": {}},
                "leave experts out",
                ("experts",),
            ),
        ],
    )
    def test_refusals_name_the_field(self, asked: dict, says: str, where: tuple) -> None:
        with pytest.raises(ValidationError, match=says) as refused:
            Structure.model_validate(asked)
        assert refused.value.errors()[0]["loc"] == where


class TestCounts:
    @pytest.mark.parametrize(
        ("config", "count", "says"),
        [
            (MIXTRAL, 1, "is less than num_experts_per_tok=2.*nearest valid: 2"),
            (GROUPED, 10, "must be a multiple of n_group=4.*nearest valid: 8, 12"),
            (GROUPED, 4, "leaves 1 expert in each.*nearest valid: 8"),
            (
                {**GROUPED, "num_experts_per_tok": 6},
                8,
                "leaves 4 experts in the topk_group=2 groups.*nearest valid: 12",
            ),
        ],
    )
    def test_a_router_keeps_enough_to_choose_from(self, config: dict, count: int, says: str) -> None:
        with pytest.raises(InvalidSpec, match=rf"structure\.num_experts={count} {says}") as refused:
            Structure(num_experts=count).target(ROW, config)
        assert refused.value.param == "spec.structure.num_experts"

    def test_every_group_keeps_equally_many(self) -> None:
        structure = Structure(num_experts=8)
        old, new = sizes_of(ROW, GROUPED), structure.target(ROW, GROUPED)
        scores = even_scores(16)
        ranked = ModelScores(
            scores.hidden_H,
            tuple(BlockScores(one.heads_A, experts_E=np.arange(16.0)) for one in scores.blocks),
        )
        cut = choose(ranked, old, new, (0, 1), expert_groups=4)
        assert cut.blocks[0].experts == (2, 3, 6, 7, 10, 11, 14, 15)


class TestCriteria:
    FACTS = (known([9, 5, 1, 1], [9, 8, 4, 1]), known([1, 1, 3, 4], [0, 1, 2, 8]))

    @pytest.mark.parametrize(
        ("criterion", "stay"),
        [
            ({"kind": "reap"}, [(1, 2), (1, 3)]),  # means 1, 1.6, 4, 1 and 0, 1, 2/3, 2
            ({"kind": "tokens"}, [(0, 1), (2, 3)]),
            ({"kind": "activation"}, [(2, 3), (2, 3)]),
            ({"kind": "explicit", "blocks": {0: [3, 0], 1: [1, 2]}}, [(0, 3), (1, 2)]),
        ],
    )
    def test_what_stays(self, criterion: dict, stay: list) -> None:
        assert kept(criterion, *self.FACTS) == stay

    def test_random_needs_nothing_and_equal_seeds_choose_equally(self) -> None:
        first, again, other = (kept({"kind": "random", "seed": seed}) for seed in (0, 0, 1))
        assert first == again != other

    def test_an_expert_without_tokens_gives_nothing(self) -> None:
        facts = known([0, 2], [0, 3])
        assert facts.saliency.tolist() == [0, 1.5]

    @pytest.mark.parametrize(
        ("blocks", "says"),
        [
            ({0: [0, 1]}, r"names blocks \[0\], and those with experts are \[0, 1\]"),
            ({0: [0, 1], 1: [2, 4]}, "has expert 4 in block 1, which has experts 0 to 3"),
        ],
    )
    def test_explicit_experts_are_the_model_s(self, blocks: dict, says: str) -> None:
        with pytest.raises(InvalidSpec, match=says):
            kept({"kind": "explicit", "blocks": blocks}, *self.FACTS)


class TestMerging:
    def test_by_hand(self) -> None:
        """Experts 1 and 2 stay. 0 is most like 2, 3 is as like 1 as 2 and goes to the lower one."""
        alike = np.array([[4.0, 2, 3, 0], [2, 4, 0, 1], [3, 0, 4, 1], [0, 1, 1, 4]])
        facts = known([9, 5, 1, 1], [9, 8, 4, 1], alike)
        choice = ExpertChoice.model_validate({"others": "merged"})
        cut = choice.applied(Cut(blocks=(BlockCut(block=0, experts=(1, 2)),)), Facts(facts))
        (block,) = cut.blocks
        assert block.merged == {
            1: {1: pytest.approx(1.6 / 2.6), 3: pytest.approx(1 / 2.6)},
            2: {0: pytest.approx(1 / 5), 2: pytest.approx(4 / 5)},
        }
        (row,) = ExpertGainTable.of(cut, [facts]).blocks
        assert [row.fate(one) for one in range(4)] == [
            "0.20 of 2",
            "stays, with 3",
            "stays, with 0",
            "0.38 of 1",
        ]
        assert (row.tokens_kept, row.gains_kept) == (6 / 16, 12 / 22)

    def test_an_expert_without_tokens_changes_nothing(self) -> None:
        facts = known([4, 0, 0], [4, 0, 0], np.eye(3))
        choice = ExpertChoice.model_validate({"others": "merged"})
        cut = choice.applied(Cut(blocks=(BlockCut(block=0, experts=(0,)),)), Facts(facts))
        assert cut.blocks[0].merged == {}

    @given(st.integers(1, 9), st.data())
    def test_every_expert_goes_once_and_weights_sum_to_one(self, count: int, data: st.DataObject) -> None:
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        x = rng.normal(size=(count, 5))
        stay = tuple(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
        facts = known([1] * count, list(rng.random(count) + 0.1), x @ x.T)
        groups = nearest(facts.similarity, stay)
        assert sorted([*groups, *(one for gone in groups.values() for one in gone)]) == list(range(count))
        choice = ExpertChoice.model_validate({"others": "merged"})
        (block,) = choice.applied(Cut(blocks=(BlockCut(block=0, experts=stay),)), Facts(facts)).blocks
        for expert, weights in block.merged.items():
            assert {expert, *groups[expert]} == weights.keys()
            assert sum(weights.values()) == pytest.approx(1)
        assert Cut.model_validate_json(Cut(blocks=(block,)).model_dump_json()).blocks == (block,)
