"""Checkpoints that no job can work with are refused, with the reason and the remedy."""

import pytest

from pipeline.errors import SourceNotAllowed, SourceNotFound, UnsupportedCheckpoint, UnsupportedModel
from pipeline.resolve.model import model_pin
from pipeline.sources import open_source
from tests.models import tiny_checkpoint
from tests.pipeline.resolve.place import MODEL, Place


class TestCheckpointsThatAreRefused:
    @pytest.mark.parametrize(
        "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "consolidated.00.pth"]
    )
    def test_pickles(self, place: Place, name: str) -> None:
        (place.model / "model.safetensors").rename(place.model / name)
        message = place.refusal(UnsupportedCheckpoint, MODEL)
        assert name in message
        assert "AutoModelForCausalLM" in message
        assert "save_pretrained" in message

    def test_gguf(self, place: Place) -> None:
        (place.model / "model.safetensors").rename(place.model / "model.gguf")
        assert "secateur import-gguf" in place.refusal(UnsupportedCheckpoint, MODEL)
        source = {"source": f"file:{place.model}/model.gguf"}
        assert "secateur import-gguf" in place.refusal(UnsupportedCheckpoint, MODEL, model=source)

    def test_no_checkpoint_at_all(self, place: Place) -> None:
        (place.model / "model.safetensors").unlink()
        assert "has no *.safetensors weights" in place.refusal(UnsupportedCheckpoint, MODEL)
        source = {"source": f"file:{place.text}"}
        assert "text.txt" in place.refusal(UnsupportedCheckpoint, MODEL, model=source)

    def test_no_config(self, place: Place) -> None:
        (place.model / "config.json").unlink()
        assert "has no config.json" in place.refusal(UnsupportedCheckpoint, MODEL)

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"{]", "is not JSON"),
            (b"\xff", "is not JSON"),
            (b"[1]", "must be a JSON object, got list"),
            (b"{}", "has no model_type"),
            (
                b'{"model_type": "llama", "num_hidden_layers": "4"}',
                "must be a positive number, got '4'",
            ),
            (b'{"model_type": "llama", "num_hidden_layers": true}', "must be a positive number"),
            (
                b'{"model_type": "llama", "num_hidden_layers": 0}',
                "must be a positive number, got 0",
            ),
        ],
    )
    def test_a_config_that_is_none(self, place: Place, content: bytes, told: str) -> None:
        (place.model / "config.json").write_bytes(content)
        assert told in place.refusal(UnsupportedCheckpoint, MODEL)

    def test_unknown_model_types(self, place: Place) -> None:
        place.edit("config.json", model_type="lama")
        assert "did you mean" not in place.refusal(UnsupportedModel, MODEL)  # the type is what the file says

    def test_remote_code(self, place: Place) -> None:
        place.edit("config.json", auto_map={"AutoModelForCausalLM": "modeling_x.X"}, model_type="x")
        assert "auto_map" in place.refusal(UnsupportedModel, MODEL)

    def test_quantized_weights(self, place: Place) -> None:
        place.edit("config.json", quantization_config={"quant_method": "gptq", "bits": 4})
        assert "is quantized (gptq)" in place.refusal(UnsupportedCheckpoint, MODEL)

    def test_shards(self, place: Place) -> None:
        tiny_checkpoint("mistral", place.root / "sharded", max_shard_size="150KB")
        place.model = place.root / "sharded"
        shards = sorted(place.model.glob("*.safetensors"))
        shards[1].unlink()
        message = place.refusal(UnsupportedCheckpoint, MODEL)
        assert f"lacks 1 of the {len(shards)} shards" in message
        assert shards[1].name in message
        place.edit("model.safetensors.index.json", weight_map={})
        assert "no weight_map" in place.refusal(UnsupportedCheckpoint, MODEL)
        place.edit("model.safetensors.index.json", weight_map={"a": ["b"]})
        assert "no weight_map" in place.refusal(UnsupportedCheckpoint, MODEL)
        (place.model / "model.safetensors.index.json").unlink()
        assert "neither model.safetensors nor" in place.refusal(UnsupportedCheckpoint, MODEL)

    def test_no_tokenizer(self, place: Place) -> None:
        (place.model / "tokenizer.json").unlink()
        assert "has no tokenizer" in place.refusal(UnsupportedCheckpoint, MODEL)
        magnitude = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}
        pins = place.resolve(prune=magnitude, calibration=None, evaluation={})
        assert pins.sources.keys() == {MODEL}
        assert model_pin(open_source(f"file:{place.model}", place.access)) == pins.of(MODEL)

    def test_outside_and_missing(self, place: Place) -> None:
        place.refusal(SourceNotAllowed, MODEL, model={"source": "file:/etc"})
        place.refusal(SourceNotFound, MODEL, model={"source": f"file:{place.root}/nothing"})
