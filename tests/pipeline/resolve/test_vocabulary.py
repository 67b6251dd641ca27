"""What a smaller vocabulary asks for is checked against the model and its texts."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import InvalidSpec, SourceNotFound, UnsupportedCheckpoint
from tests.models import tiny_checkpoint
from tests.pipeline.resolve.place import MODEL, Place, distilled, recovering


class TestVocabulary:
    """What a smaller vocabulary asks for, against the model and its texts."""

    @staticmethod
    def asked(place: Place, **vocabulary: Any) -> dict[str, Any]:
        text = {"source": f"file:{place.text}"}
        return {"structure": {"vocabulary": {"size": 300, "texts": [text]} | vocabulary}}

    def test_texts_are_pinned_and_the_held_out_one_comes_last(self, place: Place) -> None:
        (place.root / "held.txt").write_text("apples")
        asked = self.asked(place, held_out={"source": f"file:{place.root}/held.txt"})
        pins, vocabulary = place.resolve(**asked), place.spec(**asked).structure.vocabulary
        found = pins.below(vocabulary, "spec.structure.vocabulary")
        assert [pin.files[0].path for pin in found] == ["text.txt", "held.txt"]

    def test_sizes_that_cannot_be(self, place: Place) -> None:
        field = "spec.structure.vocabulary.size"
        assert "nearest valid: 259" in place.refusal(InvalidSpec, field, **self.asked(place, size=200))
        assert "nearest valid: 384" in place.refusal(InvalidSpec, field, **self.asked(place, size=385))
        message = place.refusal(InvalidSpec, field, **self.asked(place, size=350, multiple_of=100))
        assert "nearest valid: 300" in message

    def test_every_text_names_its_field(self, place: Place) -> None:
        text = {"source": f"file:{place.text}"}
        nothing = {"source": f"file:{place.root}/nothing.txt"}
        asked = self.asked(place, texts=[text, nothing])
        place.refusal(SourceNotFound, "spec.structure.vocabulary.texts.1.source", **asked)
        asked = self.asked(place, held_out=nothing)
        place.refusal(SourceNotFound, "spec.structure.vocabulary.held_out.source", **asked)

    def test_a_special_token_without_a_row(self, place: Place) -> None:
        place.edit("config.json", eos_token_id=500)
        message = place.refusal(UnsupportedCheckpoint, MODEL, **self.asked(place))
        assert "eos_token_id in config.json is token 500" in message

    def test_a_tokenizer_that_only_transformers_may_know_is_left_to_it(self, place: Place) -> None:
        (place.model / "tokenizer.json").write_text('{"model": 7}')
        place.resolve(**self.asked(place, size=10))

    def test_another_teacher_has_other_tokens(self, place: Place) -> None:
        tiny_checkpoint("qwen3", place.root / "other")
        taught = recovering(place, **distilled(teacher={"source": f"file:{place.root}/other"}))
        field = "spec.recovery.objective.teacher.source"
        message = place.refusal(InvalidSpec, field, **self.asked(place), **taught)
        assert "leave the teacher out" in message

    def test_fewer_tokens_to_match(self, place: Place) -> None:
        taught = recovering(place, **distilled(top_k=320))
        place.resolve(**taught)
        message = place.refusal(InvalidSpec, "spec.recovery.objective.top_k", **self.asked(place), **taught)
        assert "300" in message

    def test_windows_are_not_the_same_text(self, place: Place) -> None:
        text = {"source": f"file:{place.text}", "sequence_length": 32, "windows": 2}
        with pytest.raises(ValidationError, match="limit the characters") as caught:
            place.spec(**self.asked(place), evaluation={"perplexity": [text]})
        assert caught.value.errors()[0]["loc"] == ("evaluation", "perplexity", 0, "windows")
