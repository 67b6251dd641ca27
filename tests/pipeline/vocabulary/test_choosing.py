"""Which tokens stay, on small vocabularies by hand."""

import pytest

from pipeline.errors import InvalidSpec
from pipeline.spec.vocabulary import VocabularySize
from pipeline.vocabulary.choosing import choose_tokens
from pipeline.vocabulary.pieces import MergedPieces, UnigramPieces
from tests.pipeline.vocabulary.made import counts

#         0    1    2    3    4     5     6     7      8        9
PIECES = ["a", "b", "c", "d", "ab", "cd", "bc", "abc", "abcd", "dd"]
MERGES = [("a", "b"), ("c", "d"), ("b", "c"), ("ab", "c"), ("ab", "cd")]
MODEL = MergedPieces(ids={piece: i for i, piece in enumerate(PIECES)}, merges=MERGES)
LETTERS = MODEL.must_stay()


def chosen(frequencies: list[int], *, size: int, multiple_of: int = 1, rows: int = 12, protected=LETTERS):
    padded = frequencies + [0] * (rows - len(frequencies))
    return choose_tokens(counts(padded).tokens_V, [MODEL], protected, size=size, multiple_of=multiple_of)


def test_the_most_frequent_come_first() -> None:
    tokens = chosen([9, 9, 9, 9, 1, 5, 7], size=6)
    assert tokens.kept == (0, 1, 2, 3, 5, 6)
    assert (tokens.protected, tokens.passing, tokens.padding, tokens.rows) == (4, 0, 0, 6)
    assert tokens.new_ids == {0: 0, 1: 1, 2: 2, 3: 3, 5: 4, 6: 5}
    assert chosen([], size=6).kept == (0, 1, 2, 3, 4, 5)  # equally frequent: the lower ids


def test_a_token_comes_with_its_way_through_the_merges_or_not_at_all() -> None:
    tokens = chosen([0, 0, 0, 0, 0, 0, 1, 0, 9], size=7)
    assert tokens.kept == (0, 1, 2, 3, 4, 5, 8)  # abcd is merged from ab and cd, not from abc and d
    assert tokens.passing == 2
    assert chosen([0, 0, 0, 0, 0, 0, 1, 0, 9], size=6).kept == (0, 1, 2, 3, 4, 6)  # two more do not fit
    assert chosen([], size=7, protected={**LETTERS, 8: "special"}).protected == 7


def test_sizes_are_rounded_up_and_filled() -> None:
    assert chosen([0] * 6 + [3], size=5, multiple_of=4).kept == (0, 1, 2, 3, 4, 5, 6, 7)
    tokens = chosen([0] * 9 + [8], size=11, multiple_of=2)  # no text can yield dd, and rows 10, 11 are none
    assert tokens.kept == tuple(range(12))
    assert tokens.padding == 3
    assert chosen([], size=10).padding == 1
    asked = VocabularySize.model_validate(
        {"size": 65, "texts": [{"source": "file:/a.txt"}], "multiple_of": 64}
    )
    assert asked.rows == 128


@pytest.mark.parametrize(
    ("size", "multiple_of", "said"),
    [
        (
            3,
            1,
            r"size=3 is less than the 4 tokens that must stay \(4 for single characters\); nearest valid: 4",
        ),
        (13, 1, r"size=13 is more than the 12 rows .* nearest valid: 12"),
        (11, 5, r"size=11, rounded up to a multiple of 5, is more than the 12 rows .* nearest valid: 10"),
        (5, 16, r"nearest valid: none; lower multiple_of to 12 or less"),
    ],
)
def test_impossible_sizes_name_the_nearest(size: int, multiple_of: int, said: str) -> None:
    with pytest.raises(InvalidSpec, match=said) as caught:
        chosen([], size=size, multiple_of=multiple_of)
    assert caught.value.param == "spec.structure.vocabulary.size"


def test_what_must_stay_comes_with_its_merges_in_the_message() -> None:
    with pytest.raises(InvalidSpec, match=r"7 tokens that must stay \(4 for .*, 1 for special, 2 that these"):
        chosen([], size=6, protected={**LETTERS, 8: "special"})


def test_unigram_keeps_what_penalties_follow_from() -> None:
    ids = {piece: i for i, piece in enumerate(["a", "b", "ab", "ba", "aba", "xy"])}
    scores = {"a": -3.0, "b": -4.0, "ab": -2.0, "ba": -9.0, "aba": -5.0, "xy": -6.0}
    model = UnigramPieces(ids=ids, scores=scores, byte_fallback=False)
    assert set(model.must_stay()) == {0, 1, 2, 3, 5}  # ab and ba for their scores, xy as x and y are none
    assert set(UnigramPieces(ids=ids, scores=scores, byte_fallback=True).must_stay()) == {0, 1, 2, 3}
