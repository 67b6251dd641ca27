"""Every field that names tokens follows, and says when it cannot."""

import pytest

from pipeline.vocabulary.token_ids import named_ids, renumbered

NEW = {1: 0, 5: 1, 7: 2, 9: 3}


def test_ids_are_found_wherever_they_are_named() -> None:
    config = {
        "vocab_size": 32,
        "bos_token_id": 1,
        "eos_token_id": [5, 7],
        "pad_token_id": None,
        "sep_token_id": -1,
        "forced_decoder_ids": [[1, 9]],
        "force_words_ids": [[[5]], [7]],
        "suppress_tokens": [20],
        "bad_words_ids": [[21]],
        "text_config": {"decoder_start_token_id": 1, "image_token_index": 11},
        "task_specific_params": {"text-generation": {"max_length": 50}},
    }
    assert named_ids(config) == {
        1: "text_config.decoder_start_token_id",
        5: "force_words_ids",
        7: "force_words_ids",
        9: "forced_decoder_ids",
        11: "text_config.image_token_index",
    }


@pytest.mark.parametrize(
    ("field", "before", "after"),
    [
        ("bos_token_id", 5, 1),
        ("eos_token_id", [5, 9], [1, 3]),
        ("pad_token_id", None, None),
        ("pad_token_id", -1, -1),
        ("extra_token_ids", [7], [2]),
        ("forced_decoder_ids", [[1, 9], [2, 5]], [[1, 3], [2, 1]]),
        ("forced_decoder_ids", None, None),
        ("force_words_ids", [[[5], [7]]], [[[1], [2]]]),
        ("suppress_tokens", [9, 8, 1], [3, 0]),
        ("begin_suppress_tokens", [8], None),
        ("bad_words_ids", [[5, 9], [5, 8], [7]], [[1, 3], [2]]),
        ("bad_words_ids", [[8]], None),
        ("sequence_bias", [[[5], -1.5], [[8], 2.0]], [[[1], -1.5]]),
        ("text_config", {"eos_token_id": 7, "hidden_size": 7}, {"eos_token_id": 2, "hidden_size": 7}),
        ("hidden_size", 5, 5),
        ("max_length", 7, 7),
        ("architectures", ["LlamaForCausalLM"], ["LlamaForCausalLM"]),
    ],
)
def test_fields_are_renumbered(field: str, before: object, after: object) -> None:
    assert renumbered({field: before}, NEW) == {field: after}


def test_what_must_stay_is_not_lost_silently() -> None:
    with pytest.raises(KeyError):
        renumbered({"eos_token_id": [5, 8]}, NEW)
