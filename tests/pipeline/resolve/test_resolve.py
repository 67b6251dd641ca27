"""Every source of a spec is pinned, and what cannot work is refused with the field to change."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from pipeline.dag.plan import plan
from pipeline.errors import InvalidSpec, SequenceTooLong, SourceNotFound, TextTooShort, UnsupportedCheckpoint
from pipeline.sources.pins import ModelFacts, Pins
from pipeline.spec.source_fields import source_fields
from tests.models import KINDS, POSITIONS, VOCABULARY, Kind, tiny_checkpoint
from tests.pipeline.resolve.place import MODEL, Place

MAGNITUDE = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}


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
