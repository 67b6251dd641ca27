"""Every source of a spec is pinned, and what cannot work is refused with the field to change."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import safe_open

from pipeline.dag.plan import plan
from pipeline.errors import (
    InvalidRequest,
    InvalidSpec,
    SequenceTooLong,
    SourceNotAllowed,
    SourceNotFound,
    SourceUnreachable,
    TextTooShort,
    UnsupportedCheckpoint,
    UnsupportedModel,
)
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.model import model_pin
from pipeline.resolve.model_checks import check_text
from pipeline.resolve.resolve import resolve
from pipeline.sources import SourceAccess, open_source
from pipeline.sources.pins import TEACHER, ModelFacts, Pins
from pipeline.spec.recovery import Recovery
from pipeline.spec.source_fields import source_fields
from tests.hub import COMMIT, Repository, cache_repository, model_repository, serve_hub
from tests.model_configs import MIXTURES
from tests.models import KINDS, POSITIONS, VOCABULARY, Kind, tiny_checkpoint, tiny_text

MODEL = "spec.model.source"


class Place:
    """A directory with models and texts, and specs that name them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model"
        self.text = tiny_text(root)
        self.access = SourceAccess(allowed_roots=(root,))

    def spec(self, **changes: Any) -> PruneSpec:
        text = {"source": f"file:{self.text}", "sequence_length": 32}
        return PruneSpec.model_validate(
            {
                "model": {"source": f"file:{self.model}"},
                "calibration": text | {"samples": 16},
                "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
                "evaluation": {"perplexity": [text]},
            }
            | changes
        )

    def resolve(self, **changes: Any) -> Pins:
        return resolve(self.spec(**changes), self.access)

    def edit(self, name: str, **fields: Any) -> None:
        path = self.model / name
        content = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    def refusal(self, kind: type[InvalidRequest], param: str, **changes: Any) -> str:
        with pytest.raises(kind) as caught:
            self.resolve(**changes)
        assert caught.value.code == kind.code
        assert caught.value.param == param
        return caught.value.message


@pytest.fixture
def place(tmp_path: Path) -> Place:
    tiny_checkpoint("llama", tmp_path / "model")
    return Place(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_pins_and_facts(tmp_path: Path, kind: Kind) -> None:
    tiny_checkpoint(kind, tmp_path / "model")
    place = Place(tmp_path)
    pins = place.resolve()
    parameters = pins.facts.parameters
    assert pins.facts == ModelFacts(
        model_type=kind,
        blocks=4 if kind == "llama" else 2,
        max_positions=POSITIONS,
        hidden_size=64,
        vocabulary=VOCABULARY,
        parameters=parameters,
        config=json.loads((place.model / "config.json").read_text()),
    )
    with safe_open(place.model / "model.safetensors", framework="pt") as file:
        real = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert parameters == pytest.approx(real, rel=0.05)  # the file's header counts
    assert [file.path for file in pins.of(MODEL).files] == sorted(path.name for path in place.model.iterdir())
    calibration = pins.of("spec.calibration.source")
    assert [file.path for file in calibration.files] == ["text.txt"]
    assert pins.of("spec.evaluation.perplexity.0.source") == calibration
    assert pins.sources.keys() == {field.path for field in source_fields(place.spec(), "spec")}
    assert Pins.model_validate_json(pins.model_dump_json()) == pins
    assert plan(place.spec(), pins).nodes


def test_shards_are_pinned_with_their_index(tmp_path: Path) -> None:
    tiny_checkpoint("qwen3", tmp_path / "model", max_shard_size="150KB")
    names = [file.path for file in Place(tmp_path).resolve().of(MODEL).files]
    assert "model.safetensors.index.json" in names
    assert len([name for name in names if name.endswith(".safetensors")]) > 1


def test_only_what_transformers_would_load_is_pinned(place: Place) -> None:
    before = place.resolve().of(MODEL)
    (place.model / "original").mkdir()
    for name in (
        "README.md",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "x.gguf",
        "original/a.safetensors",
    ):
        (place.model / name).write_bytes(b"not wanted")
    # One whole file wins over shards, as in transformers.
    (place.model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "gone.safetensors"}})
    )
    assert place.resolve().of(MODEL) == before


def test_moving_everything_changes_only_the_sources(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.model, tmp_path / "elsewhere")
    moved = place.resolve(model={"source": f"file:{tmp_path}/elsewhere"})
    assert moved.of(MODEL).files == place.resolve().of(MODEL).files


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
            (b'{"model_type": "llama"}', "has no num_hidden_layers"),
            (b'{"model_type": "llama", "num_hidden_layers": "4"}', "must be a positive number, got '4'"),
            (b'{"model_type": "llama", "num_hidden_layers": true}', "must be a positive number"),
            (b'{"model_type": "llama", "num_hidden_layers": 0}', "must be a positive number, got 0"),
        ],
    )
    def test_a_config_that_is_none(self, place: Place, content: bytes, told: str) -> None:
        (place.model / "config.json").write_bytes(content)
        assert told in place.refusal(UnsupportedCheckpoint, MODEL)

    def test_unknown_model_types(self, place: Place) -> None:
        place.edit("config.json", model_type="lama")
        assert "did you mean 'llama'?" in place.refusal(UnsupportedModel, MODEL)

    def test_remote_code(self, place: Place) -> None:
        place.edit("config.json", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
        assert "config.json" in place.refusal(UnsupportedCheckpoint, MODEL)
        place.edit("config.json", auto_map=...)
        place.edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["x.X", None]})
        assert "tokenizer_config.json" in place.refusal(UnsupportedCheckpoint, MODEL)

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


class TestTexts:
    def test_missing_ones_name_their_field(self, place: Place) -> None:
        nothing = {"source": f"file:{place.root}/nothing.txt", "sequence_length": 32}
        place.refusal(SourceNotFound, "spec.calibration.source", calibration=nothing)
        good = {"source": f"file:{place.text}", "sequence_length": 32}
        evaluation = {"perplexity": [good, nothing]}
        place.refusal(SourceNotFound, "spec.evaluation.perplexity.1.source", evaluation=evaluation)

    def test_a_directory_is_no_text(self, place: Place) -> None:
        folder = place.root / "folder.txt"
        folder.mkdir()
        (folder / "a.txt").write_text("a")
        source = {"source": f"file:{folder}", "sequence_length": 32}
        assert "is a directory" in place.refusal(
            SourceNotFound, "spec.calibration.source", calibration=source
        )

    def test_too_few_bytes_cannot_be_enough_tokens(self, place: Place) -> None:
        (place.root / "short.txt").write_text("x" * 31)
        short = {"source": f"file:{place.root}/short.txt", "sequence_length": 32}
        assert "31 bytes" in place.refusal(TextTooShort, "spec.calibration.source", calibration=short)
        (place.root / "short.txt").write_text("x" * 32)
        assert place.resolve(calibration=short)

    def test_parquet_is_compressed_and_all_formats_are_pinned(self, place: Place) -> None:
        for ending in (".jsonl", ".parquet"):
            source = {"source": f"file:{place.text.with_suffix(ending)}", "sequence_length": 32}
            pin = place.resolve(calibration=source).of("spec.calibration.source")
            assert [file.path for file in pin.files] == [f"text{ending}"]

    def test_longer_than_the_model_s_positions(self, place: Place) -> None:
        source = {"source": f"file:{place.text}", "sequence_length": POSITIONS + 1}
        place.refusal(SequenceTooLong, "spec.calibration.sequence_length", calibration=source)


class TestOtherPlaces:
    def test_s3_that_is_away(self, place: Place) -> None:
        from pipeline.storage import S3Options
        from tests.ports import free_ports

        options = S3Options(
            endpoint_url=f"http://127.0.0.1:{free_ports(1)[0]}", access_key="a", secret_key="b"
        )
        place.access = SourceAccess(allowed_roots=(place.root,), s3=options)
        place.refusal(SourceUnreachable, MODEL, model={"source": "s3://bucket/model"})

    def test_hub(self, place: Place) -> None:
        """Against a stand-in for the hub."""
        with serve_hub() as hub:
            hub.models["org/tiny"] = model_repository(place.model)
            hub.datasets["org/texts"] = Repository({"train.jsonl": b"{}"})
            place.access = SourceAccess(
                allowed_roots=(place.root,), hub_endpoint=hub.endpoint, hub_cache_dir=place.root / "cache"
            )
            texts = {"source": "hub:org/texts", "sequence_length": 32}
            pins = place.resolve(model={"source": "hub:org/tiny"}, calibration=texts)
            assert pins.of(MODEL).source == f"hub:org/tiny@{COMMIT}"
            assert {file.path for file in pins.of(MODEL).files} == {
                path.name for path in place.model.iterdir()
            }
            assert pins.of("spec.calibration.source").source == f"hub:org/texts@{COMMIT}"
            asked = [path.rsplit("/", 1)[-1] for path in hub.paths() if "/resolve/" in path]
            assert {*asked} == {"config.json", "tokenizer.json", "tokenizer_config.json"}  # never weights
            hub.models["org/tiny"].gated = True
            place.refusal(SourceNotAllowed, MODEL, model={"source": "hub:org/tiny"})
            place.refusal(
                SourceNotFound, "spec.calibration.source", calibration=texts | {"source": "hub:org/no"}
            )

    def test_offline_hub(self, place: Place) -> None:
        cache_repository(place.root / "cache", "org/tiny", model_repository(place.model))
        place.access = SourceAccess(
            allowed_roots=(place.root,), hub_cache_dir=place.root / "cache", hub_offline=True
        )
        pins = place.resolve(model={"source": "hub:org/tiny"})
        assert pins.of(MODEL).source == f"hub:org/tiny@{COMMIT}"

    def test_a_store_that_fails_while_a_config_is_read(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pipeline.sources.hub.BUSY_RETRIES", 0)
        with serve_hub() as hub:
            repository = hub.models["org/tiny"] = model_repository(place.model)
            place.access = SourceAccess(
                allowed_roots=(place.root,), hub_endpoint=hub.endpoint, hub_cache_dir=place.root / "cache"
            )
            source = open_source("hub:org/tiny", place.access)
            source.names()
            hub.status = 503
            monkeypatch.setattr("pipeline.resolve.resolve.open_source", lambda *args, **kwargs: source)
            assert "HTTP 503" in place.refusal(SourceUnreachable, MODEL, model={"source": "hub:org/tiny"})
            assert repository.files


def test_the_api_s_imports_stay_light() -> None:
    heavy = ("torch", "ray", "transformers", "datasets", "boto3", "huggingface_hub", "pyarrow")
    code = (
        "import sys, pipeline.resolve.resolve, pipeline.request.prune_spec; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_resolving_a_local_spec_loads_nothing_heavy(place: Place) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.resolve.resolve import resolve; "
        "from pipeline.sources import SourceAccess; from pipeline.request.prune_spec import PruneSpec; "
        "access = SourceAccess(allowed_roots=(Path(sys.argv[2]),)); "
        "resolve(PruneSpec.model_validate_json(sys.argv[1]), access); "
        "print([name for name in ('torch', 'ray', 'transformers', 'datasets') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, place.spec().model_dump_json(), str(place.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestInclude:
    """The directory of `evaluation.tasks.include`."""

    FIELD = "spec.evaluation.tasks.include"
    GOOD = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: a.jsonl}\n"

    def asked(self, place: Place) -> dict[str, Any]:
        return {"evaluation": {"tasks": {"tasks": ["mine"], "include": f"file:{place.root}/tasks"}}}

    def files(self, place: Place, **contents: str) -> None:
        (place.root / "tasks").mkdir()
        for name, content in contents.items():
            stem, _, ending = name.rpartition("_")
            (place.root / "tasks" / f"{stem}.{ending}").write_text(content)

    def test_task_files_and_data_are_pinned_and_nothing_else(self, place: Place) -> None:
        self.files(place, mine_yaml=self.GOOD, a_jsonl="{}\n", utils_py="import os", weights_bin="x")
        pins = place.resolve(**self.asked(place))
        include = pins.of("spec.evaluation.tasks.include")
        assert [file.path for file in include.files] == ["a.jsonl", "mine.yaml"]
        assert all(file.tag.startswith("sha256:") for file in include.files)
        assert Pins.model_validate_json(pins.model_dump_json()) == pins
        assert "spec.evaluation.tasks.include" not in place.resolve().sources

    def test_refusals_name_the_field(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = self.asked(place)
        place.refusal(SourceNotFound, self.FIELD, **asked)
        self.files(place, a_jsonl="{}\n")
        assert "no task files" in place.refusal(InvalidSpec, self.FIELD, **asked)
        task = place.root / "tasks" / "mine.yaml"
        task.write_text("task: mine\nprocess_docs: !function utils.f\n")
        assert "no foreign code" in place.refusal(InvalidSpec, self.FIELD, **asked)
        task.write_text(self.GOOD)
        monkeypatch.setattr("pipeline.resolve.resolve.TASK_FILE_BYTES", 10)
        assert "at most 10" in place.refusal(InvalidSpec, self.FIELD, **asked)
        monkeypatch.setattr("pipeline.resolve.resolve.MAX_TASK_FILES", 0)
        assert "at most 0" in place.refusal(InvalidSpec, self.FIELD, **asked)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (place.model / name).unlink()
        assert "no tokenizer" in place.refusal(
            UnsupportedCheckpoint, MODEL, **asked, prune=MAGNITUDE, calibration=None
        )


MAGNITUDE = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}


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
        taught = TestRecovery.asked(
            place, **TestRecovery.distilled(teacher={"source": f"file:{place.root}/other"})
        )
        field = "spec.recovery.objective.teacher.source"
        message = place.refusal(InvalidSpec, field, **self.asked(place), **taught)
        assert "leave the teacher out" in message

    def test_fewer_tokens_to_match(self, place: Place) -> None:
        taught = TestRecovery.asked(place, **TestRecovery.distilled(top_k=320))
        place.resolve(**taught)
        message = place.refusal(InvalidSpec, "spec.recovery.objective.top_k", **self.asked(place), **taught)
        assert "300" in message

    def test_windows_are_not_the_same_text(self, place: Place) -> None:
        text = {"source": f"file:{place.text}", "sequence_length": 32, "windows": 2}
        with pytest.raises(ValidationError, match="limit the characters") as caught:
            place.spec(**self.asked(place), evaluation={"perplexity": [text]})
        assert caught.value.errors()[0]["loc"] == ("evaluation", "perplexity", 0, "windows")


class TestRecovery:
    """What a recovery asks for, against the files that it names."""

    @staticmethod
    def asked(place: Place, **changes: Any) -> dict[str, Any]:
        text = {"source": f"file:{place.text}", "sequence_length": 32, "validation_sequences": 8}
        recovery = {"text": text, "steps": 4, "global_batch_size": 4, "learning_rate": {"warmup_steps": 1}}
        changes["text"] = text | changes.get("text", {})
        return {"recovery": recovery | changes}

    @staticmethod
    def distilled(**objective: Any) -> dict[str, Any]:
        return {"objective": {"kind": "distillation", **objective}}

    def test_text_and_teacher_are_pinned(self, place: Place) -> None:
        tiny_checkpoint("qwen3", place.root / "other")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (place.root / "other" / name).unlink()  # a teacher reads our tokens
        teacher = {"source": f"file:{place.root}/other"}
        pins = place.resolve(**self.asked(place, **self.distilled(teacher=teacher, hidden_weight=1.0)))
        assert [file.path for file in pins.of("spec.recovery.text.source").files] == ["text.txt"]
        assert pins.of(TEACHER).source == f"file:{place.root}/other"
        assert pins.models[TEACHER].model_type == "qwen3"
        assert Pins.model_validate_json(pins.model_dump_json()) == pins
        assert TEACHER not in place.resolve(**self.asked(place)).sources

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
        shutil.copytree(place.model, other)
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | changed))
        asked = self.distilled(teacher={"source": f"file:{other}"}, hidden_weight=0.5)
        with pytest.raises(InvalidRequest) as caught:
            place.resolve(**self.asked(place, **asked))
        assert caught.value.param == param
        for word in words:
            assert word in caught.value.message

    def test_a_teacher_that_is_no_checkpoint(self, place: Place) -> None:
        asked = self.distilled(teacher={"source": f"file:{place.root}/nothing"})
        place.refusal(SourceNotFound, "spec.recovery.objective.teacher.source", **self.asked(place, **asked))

    def test_a_model_that_would_be_its_own_teacher(self, place: Place) -> None:
        shutil.copytree(place.model, place.root / "copy")
        asked = self.asked(place, **self.distilled(teacher={"source": f"file:{place.root}/copy"}))
        message = place.refusal(
            InvalidSpec, "spec.recovery.objective.teacher.source", **asked, prune=None, calibration=None
        )
        assert "the model itself" in message
        assert TEACHER in place.resolve(**asked).sources

    def test_more_than_the_vocabulary(self, place: Place) -> None:
        message = place.refusal(
            InvalidSpec, "spec.recovery.objective.top_k", **self.asked(place, **self.distilled(top_k=385))
        )
        assert "384" in message
        place.resolve(**self.asked(place, **self.distilled(top_k=384)))

    def test_linears_that_the_model_has_not(self, place: Place) -> None:
        linears = ["self_attn.q_proj", "mlp.gate_prj"]
        asked = self.asked(place, trains={"kind": "lora", "linears": linears})
        message = place.refusal(InvalidSpec, "spec.recovery.trains.linears.1", **asked)
        assert "did you mean 'mlp.gate_proj'?" in message
        assert "mlp.down_proj" in message

    @pytest.mark.parametrize("kind", MIXTURES)
    def test_experts_are_not_trained_end_to_end(self, place: Place, kind: Kind) -> None:
        tiny_checkpoint(kind, place.root / "experts")
        teacher = self.asked(place, **self.distilled(teacher={"source": f"file:{place.root}/experts"}))
        message = place.refusal(InvalidSpec, "spec.recovery.objective.teacher.source", **teacher)
        assert f"{kind} has experts" in message
        model = {"model": {"source": f"file:{place.root}/experts"}}
        for trains in ("full", "lora", "norms_and_biases"):
            asked = self.asked(place, trains={"kind": trains})
            message = place.refusal(InvalidSpec, "spec.recovery.trains", **asked, **model)
            assert f"{kind} has experts" in message
            assert "reconstruction" in message
        asked = self.asked(place, trains={"kind": "reconstruction"})
        assert place.resolve(**asked, **model).facts.model_type == kind

    def test_sequences_longer_than_the_models_positions(self, place: Place) -> None:
        asked = self.asked(place, text={"sequence_length": POSITIONS + 1, "validation_sequences": 1})
        place.refusal(SequenceTooLong, "spec.recovery.text.sequence_length", **asked)

    def test_a_text_that_cannot_be_long_enough(self, place: Place) -> None:
        text = place.root / "short.txt"
        text.write_text("ab\n" * 100)  # 300 bytes: no more than 602 tokens, 18 sequences of 32
        short = {"source": f"file:{text}"}
        place.resolve(**self.asked(place, text={**short, "validation_sequences": 2}))
        message = place.refusal(
            TextTooShort, "spec.recovery.text.epochs", **self.asked(place, text={**short}, steps=11)
        )
        assert "300 bytes" in message
        assert "10 training sequences" in message
        assert "5 times" in message
        place.resolve(**self.asked(place, text={**short, "epochs": 5}, steps=11))
        held_out = {**short, "validation_sequences": 18, "epochs": 1000}
        message = place.refusal(TextTooShort, "spec.recovery.text.source", **self.asked(place, text=held_out))
        assert "fewer validation_sequences" in message
        packed = {"source": f"file:{text.with_suffix('.parquet')}"}
        shutil.copy(place.text.with_suffix(".parquet"), text.with_suffix(".parquet"))
        place.resolve(**self.asked(place, text=packed, steps=10_000))  # compressed: the stage finds out

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


def stored_masks(source: str) -> dict[str, Any]:
    """A pruning that learns masks from stored ones."""
    text = {"source": "file:/nowhere.txt", "sequence_length": 32}
    training = {"text": text, "steps": 200, "global_batch_size": 1}
    method = {"kind": "maskllm", "prior": {"kind": "stored", "source": source}, "training": training}
    return {"method": method, "pattern": {"kind": "nm", "keep": 2, "group": 4}}


def test_stored_masks_are_pinned_as_one_file(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    masks = place.root / "published" / "masks" / "masks.safetensors"
    masks.parent.mkdir(parents=True)
    masks.write_bytes(b"what they are is looked at when they are imported")

    def asked(path: Path) -> dict[str, Any]:
        prune = stored_masks(f"file:{path}")
        prune["method"]["training"]["text"]["source"] = f"file:{place.text}"
        return prune

    pins = place.resolve(prune=asked(masks))
    [prior] = pins.of("spec.prune.method.prior.source").files
    assert (prior.path, prior.size) == ("masks.safetensors", 49)
    assert prior.tag.startswith("sha256:")
    assert pins.of("spec.prune.method.training.text.source").files

    field = "spec.prune.method.prior.source"
    said = place.refusal(SourceNotFound, field, prune=asked(place.model))
    assert "is no file of masks; name masks/masks.safetensors of a published checkpoint" in said
    assert "is no file of masks" in place.refusal(SourceNotFound, field, prune=asked(place.text))
    missing = masks.with_name("none.safetensors")
    assert "does not exist" in place.refusal(SourceNotFound, field, prune=asked(missing))
    outside = tmp_path_factory.mktemp("outside") / "masks.safetensors"
    outside.touch()
    assert "allowed root" in place.refusal(SourceNotAllowed, field, prune=asked(outside))


def test_masks_to_compare_with_are_pinned_in_their_order(place: Place) -> None:
    files = [place.root / f"{name}.safetensors" for name in ("code", "law")]
    for file in files:
        file.write_bytes(file.name.encode())

    def asked(*paths: Path) -> dict[str, Any]:
        named = [{"name": path.stem, "source": f"file:{path}"} for path in paths]
        return {
            "method": {"kind": "magnitude"},
            "pattern": {"kind": "nm", "keep": 2, "group": 4},
            "compare_with": named,
        }

    pins = place.resolve(prune=asked(*files))
    compared = [pins.of(f"spec.prune.compare_with.{i}.source") for i in range(2)]
    assert [pin.files[0].path for pin in compared] == ["code.safetensors", "law.safetensors"]
    field = "spec.prune.compare_with.1.source"
    assert "no file of masks" in place.refusal(SourceNotFound, field, prune=asked(files[0], place.text))


@pytest.mark.parametrize("names", [("code", "code"), ("prior",)])
def test_masks_to_compare_with_have_names_of_their_own(names: tuple[str, ...]) -> None:
    named = [{"name": name, "source": "s3://b/masks.safetensors"} for name in names]
    prune = {
        "method": {"kind": "magnitude"},
        "pattern": {"kind": "nm", "keep": 2, "group": 4},
        "compare_with": named,
    }
    with pytest.raises(ValidationError, match="choose another") as caught:
        PruneSpec.model_validate({"model": {"source": "file:/m"}, "prune": prune})
    assert caught.value.errors()[0]["loc"] == ("prune", "compare_with", len(names) - 1, "name")
