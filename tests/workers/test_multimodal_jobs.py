"""Whole jobs on multimodal checkpoints: pruned, evaluated, published, and opened as what they were."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import secateur
from pipeline.checkpoint.keeps import load_keep
from pipeline.errors import InvalidSpec
from pipeline.report.data import ReportDocument
from pipeline.sources import open_source
from tests.exported import export
from tests.models import tiny_documents, tiny_text
from tests.workers.outcomes import stored, weights_of
from tests.workers.training_runs import Call, Folder, prepare, run_all
from tests.wrapper_checkpoints import loaded_wrapper, wrapper_checkpoint
from workers.local import doctor
from workers.local.cutting import ACCESS
from workers.verification.answer import Opening
from workers.verification.opening import open_model

pytestmark = pytest.mark.usefixtures("one_thread", "opened_here")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a text."""
    directory = tmp_path_factory.mktemp("text")
    return f"file:{tiny_text(directory, documents=tiny_documents(count=48, words=160))}"


def spec(text: str, **fields: Any) -> dict[str, Any]:
    """Wanda at one half, with a perplexity."""
    return {
        "calibration": {"source": text, "samples": 4, "sequence_length": 32},
        "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        "evaluation": {"perplexity": [{"source": text, "sequence_length": 32, "windows": 4}]},
        **fields,
    }


def test_a_multimodal_checkpoint_is_pruned_and_published_as_it_was(text: str, tmp_path: Path) -> None:
    model = wrapper_checkpoint("gemma3", tmp_path / "model")
    structure = {"intermediate_size": 64, "criterion": {"kind": "magnitude"}}
    pruned = secateur.prune(model, spec(text, structure=structure), tmp_path / "out", threads=1)
    assert isinstance(pruned.report, ReportDocument)
    whole = loaded_wrapper(pruned.directory)
    assert type(whole).__name__ == "Gemma3ForConditionalGeneration"
    opened = json.loads((pruned.directory / "verification.json").read_text())["opened"]
    assert opened["model_class"] == "Gemma3ForConditionalGeneration"
    assert opened["logits"]["largest_difference"] == 0
    assert any("multimodal checkpoint (gemma3)" in note for note in notes_of(pruned.report))
    before = load_file(model / "model.safetensors")
    after = {k: v for file in pruned.directory.glob("*.safetensors") for k, v in load_file(file).items()}
    others = [name for name in before if "language_model" not in name and "lm_head" not in name]
    assert others
    assert all(after[name].equal(before[name]) for name in others)
    zeros = [w for name, w in whole.named_parameters() if "language_model" in name and "_proj" in name]
    share = sum(int((w == 0).sum()) for w in zeros) / sum(w.numel() for w in zeros)
    assert share == pytest.approx(0.5, abs=1e-3)
    assert (pruned.directory / "preprocessor_config.json").is_file()
    card = (pruned.directory / "README.md").read_text()
    assert "pipeline_tag: image-text-to-text" in card
    assert "AutoModelForMultimodalLM.from_pretrained(" in card


def notes_of(report: ReportDocument) -> list[str]:
    """Everything that a report says in sentences."""
    return json.dumps(report.model_dump(mode="json")).split('"')


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({"structure": {"hidden_size": 32}}, "spec.structure.hidden_size", "projected to this width"),
        (
            {"structure": {"drop_blocks": {"kind": "spaced", "num_blocks": 1}}},
            "spec.structure.drop_blocks",
            "first blocks",
        ),
        ({"structure": {"vocabulary": {}}}, "spec.structure.vocabulary", "tokens for images"),
        ({"target": [{"kind": "onnxruntime"}]}, "spec.target.0", "is multimodal"),
        ({"publish": {"sparse": "bf16"}}, "spec.publish.sparse", "is multimodal"),
        ({"quantize": {"kind": "rtn", "weights": "int8"}}, "spec.quantize.0", "is multimodal"),
    ],
)
def test_what_would_break_the_other_parts_is_refused(
    fields: dict[str, Any], param: str, why: str, text: str, tmp_path: Path
) -> None:
    model = wrapper_checkpoint("qwen3_vl", tmp_path / "model")
    if "vocabulary" in fields.get("structure", {}):
        structure = {"vocabulary": {"size": 320, "texts": [{"source": text}]}}
        fields = {"structure": structure, "evaluation": {}}
    with pytest.raises(InvalidSpec, match=why) as refused:
        secateur.prune(model, spec(text, **fields), tmp_path / "out", threads=1)
    assert refused.value.param == param


def test_the_doctor_knows_the_language_model_inside(tmp_path: Path) -> None:
    model = wrapper_checkpoint("qwen3_vl", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    found = doctor.findings(open_source(f"file:{model}", ACCESS), config)
    told = {one.what: one.why_not for one in found}
    assert told["pruning"] is None
    assert told["recovery training"] is None
    assert told["cutting intermediate_size=96"] is None
    assert "projected to this width" in str(told["cutting hidden_size=64"])
    assert "first blocks" in str(told["cutting num_hidden_layers=2"])
    assert "tokens for images" in str(
        next(why for what, why in told.items() if what.startswith("cutting vocab_size="))
    )
    assert "multimodal" in str(told["target llama.cpp"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks
def test_training_changes_the_language_model_alone(tmp_path: Path) -> None:
    tiny = prepare(tmp_path / "tiny", model=wrapper_checkpoint("qwen3_vl", tmp_path / "model"))
    work = {
        trains: tiny.work({"steps": 4, "trains": {"kind": trains}}, key=trains) for trains in ("full", "lora")
    }
    calls = [Call(one, Folder(tmp_path / "runs" / trains)) for trains, one in work.items()]
    outcomes = dict(zip(work, run_all(tmp_path / "runs", calls, workers=1), strict=True))
    before = load_file(tmp_path / "model" / "model.safetensors")
    for trains, outcome in outcomes.items():
        after = weights_of(tiny, outcome)
        assert after.keys() == before.keys()
        for name, tensor in before.items():
            if "visual" in name:
                assert after[name].equal(tensor), name
        assert any(not after[name].equal(tensor) for name, tensor in before.items()), trains
        for name, keep in load_keep(tiny.content, tiny.pruned, tiny.keep).items():
            assert not after[name][~keep].any(), name
    assert outcomes["lora"].result is not None
    checkpoint, adapter = stored(outcomes["lora"])[0], outcomes["lora"].result.artifacts["adapter"]
    published = export(tiny.content, checkpoint, tmp_path / "published")
    (published / "adapter").mkdir()
    for file in adapter.files:
        (published / "adapter" / file.path).write_bytes(tiny.content.get_bytes(file.blob))
    aside = tmp_path / "aside"
    aside.mkdir()
    opened = open_model(
        Opening(directory=published, aside=aside, weights="in_memory", threads=1, adapter="adapter")
    )
    assert opened.model_class == "Qwen3VLForConditionalGeneration"
    assert opened.adapter_tensors == 2 * 2 * 7
