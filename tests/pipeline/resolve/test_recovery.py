"""What a recovery asks for is checked against the files that it names."""

import json
import shutil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.errors import InvalidRequest, InvalidSpec, SequenceTooLong, SourceNotFound, TextTooShort
from pipeline.resolve.model_checks import check_text
from pipeline.sources.pins import TEACHER, Pins
from pipeline.spec.recovery import Recovery
from tests.model_configs import MIXTURES
from tests.models import POSITIONS, Kind, tiny_checkpoint
from tests.pipeline.resolve.place import Place, distilled, recovering


class TestRecovery:
    """What a recovery asks for, against the files that it names."""

    def test_text_and_teacher_are_pinned(self, place: Place) -> None:
        tiny_checkpoint("qwen3", place.root / "other")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (place.root / "other" / name).unlink()  # a teacher reads our tokens
        teacher = {"source": f"file:{place.root}/other"}
        pins = place.resolve(**recovering(place, **distilled(teacher=teacher, hidden_weight=1.0)))
        assert [file.path for file in pins.of("spec.recovery.text.source").files] == ["text.txt"]
        assert pins.of(TEACHER).source == f"file:{place.root}/other"
        assert pins.models[TEACHER].model_type == "qwen3"
        assert Pins.model_validate_json(pins.model_dump_json()) == pins
        assert TEACHER not in place.resolve(**recovering(place)).sources

    @pytest.mark.parametrize(
        ("changed", "param", "words"),
        [
            ({"vocab_size": 400}, "spec.recovery.objective.teacher.source", ["400", "384"]),
            (
                {"hidden_size": 128},
                "spec.recovery.objective.hidden_weight",
                ["64", "128", "set hidden_weight"],
            ),
            ({"max_position_embeddings": 16}, "spec.recovery.text.sequence_length", ["teacher's 16"]),
        ],
    )
    def test_a_teacher_that_cannot_teach(
        self, place: Place, changed: dict[str, Any], param: str, words: list[str]
    ) -> None:
        other = place.root / "other"
        config = json.loads((place.model / "config.json").read_text())
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**config | changed)).save_pretrained(other)
        asked = distilled(teacher={"source": f"file:{other}"}, hidden_weight=0.5)
        with pytest.raises(InvalidRequest) as caught:
            place.resolve(**recovering(place, **asked))
        assert caught.value.param == param
        for word in words:
            assert word in caught.value.message

    def test_a_teacher_that_is_no_checkpoint(self, place: Place) -> None:
        asked = distilled(teacher={"source": f"file:{place.root}/nothing"})
        place.refusal(SourceNotFound, "spec.recovery.objective.teacher.source", **recovering(place, **asked))

    def test_a_model_that_would_be_its_own_teacher(self, place: Place) -> None:
        shutil.copytree(place.model, place.root / "copy")
        asked = recovering(place, **distilled(teacher={"source": f"file:{place.root}/copy"}))
        message = place.refusal(
            InvalidSpec, "spec.recovery.objective.teacher.source", **asked, prune=None, calibration=None
        )
        assert "the model itself" in message
        assert TEACHER in place.resolve(**asked).sources

    def test_more_than_the_vocabulary(self, place: Place) -> None:
        message = place.refusal(
            InvalidSpec, "spec.recovery.objective.top_k", **recovering(place, **distilled(top_k=385))
        )
        assert "384" in message
        place.resolve(**recovering(place, **distilled(top_k=384)))

    def test_linears_that_the_model_has_not(self, place: Place) -> None:
        linears = ["self_attn.q_proj", "mlp.gate_prj"]
        asked = recovering(place, trains={"kind": "lora", "linears": linears})
        message = place.refusal(InvalidSpec, "spec.recovery.trains.linears.1", **asked)
        assert "did you mean 'mlp.gate_proj'?" in message
        assert "mlp.down_proj" in message

    @pytest.mark.parametrize("kind", MIXTURES)
    def test_models_with_experts_are_trained_in_every_way(self, place: Place, kind: Kind) -> None:
        tiny_checkpoint(kind, place.root / "experts")
        place.resolve(**recovering(place, **distilled(teacher={"source": f"file:{place.root}/experts"})))
        model = {"model": {"source": f"file:{place.root}/experts"}}
        for trains in ("full", "lora", "norms_and_biases", "reconstruction"):
            asked = recovering(place, trains={"kind": trains})
            assert place.resolve(**asked, **model).facts.model_type == kind
        lora = {"kind": "lora", "linears": ["mlp.experts.0.up_proj"]}
        asked = recovering(place, trains=lora)
        assert "has no linear" in place.refusal(
            InvalidSpec, "spec.recovery.trains.linears.0", **asked, **model
        )

    def test_sequences_longer_than_the_models_positions(self, place: Place) -> None:
        asked = recovering(place, text={"sequence_length": POSITIONS + 1, "validation_sequences": 1})
        place.refusal(SequenceTooLong, "spec.recovery.text.sequence_length", **asked)

    def test_a_text_that_cannot_be_long_enough(self, place: Place) -> None:
        text = place.root / "short.txt"
        text.write_text("ab\n" * 100)  # 300 bytes: no more than 602 tokens, 18 sequences of 32
        short = {"source": f"file:{text}"}
        place.resolve(**recovering(place, text={**short, "validation_sequences": 2}))
        message = place.refusal(
            TextTooShort, "spec.recovery.text.epochs", **recovering(place, text={**short}, steps=11)
        )
        assert "300 bytes" in message
        assert "10 training sequences" in message
        assert "5 times" in message
        place.resolve(**recovering(place, text={**short, "epochs": 5}, steps=11))
        held_out = {**short, "validation_sequences": 18, "epochs": 1000}
        message = place.refusal(TextTooShort, "spec.recovery.text.source", **recovering(place, text=held_out))
        assert "fewer validation_sequences" in message
        packed = {"source": f"file:{text.with_suffix('.parquet')}"}
        shutil.copy(place.text.with_suffix(".parquet"), text.with_suffix(".parquet"))
        place.resolve(**recovering(place, text=packed, steps=10_000))  # compressed: the stage finds out

    @pytest.mark.parametrize("documents", ["lines", "file"])
    @given(
        content=st.text(st.sampled_from("a é你\n"), min_size=1, max_size=60),
        length=st.integers(8, 16),
        held_out=st.integers(0, 3),
        wanted=st.integers(1, 40),
        epochs=st.integers(1, 4),
    )
    def test_no_text_is_refused_that_would_do(
        self, documents: str, content: str, length: int, held_out: int, wanted: int, epochs: int
    ) -> None:
        """Even with a tokenizer that knows bytes alone and puts a mark in front of every document."""
        asked = {"source": "file:/t.txt", "documents": documents, "sequence_length": length}
        recovery = Recovery.model_validate(
            {
                "text": asked | {"validation_sequences": held_out, "epochs": epochs},
                "steps": wanted,
                "global_batch_size": 1,
                "learning_rate": {"warmup_steps": 0},
            }
        )
        lines = content.split("\n") if documents == "lines" else [content]
        tokens = sum(len(line.encode()) + 2 for line in lines if line.strip())
        if (tokens // length - held_out) * epochs >= wanted:
            check_text(recovery, len(content.encode()), "spec.recovery")
