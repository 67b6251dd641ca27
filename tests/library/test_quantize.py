"""Prune, then quantize, in one spec: a whole job in this process."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import secateur
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.quantized import QuantizedWeights
from pipeline.artifacts.verification import Verification
from pipeline.report.data import ReportData, ReportDocument
from tests.models import tiny_checkpoint, tiny_documents, tiny_text

pytestmark = pytest.mark.usefixtures("all_opened_here")

FORMS = [{"kind": "gptq", "group_size": 32}, {"kind": "fp8"}, {"kind": "gguf", "weights": "Q4_0"}]
NAMES = ["gptq-int4-g32", "fp8-channel", "gguf-q4_0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, all_opened_here: None) -> tuple[Path, ReportData]:
    """The published directory and the report of a job with three forms."""
    directory = tmp_path_factory.mktemp("quantize")
    tiny_checkpoint("llama", directory / "model")
    text = f"file:{tiny_text(directory, documents=tiny_documents(count=48, words=160))}"
    spec = {
        "calibration": {"source": text, "samples": 6, "sequence_length": 32},
        "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}},
        "quantize": FORMS,
        "evaluation": {"perplexity": [{"source": text, "sequence_length": 32, "windows": 4}]},
    }
    told: list[object] = []
    pruned = secateur.prune(directory / "model", spec, directory / "out", threads=1, told=told.append)
    assert isinstance(pruned.report, ReportDocument)
    assert any("192 calibration tokens are few for rows of 128 weights" in str(event) for event in told)
    return pruned.directory, pruned.report.data


def test_each_form_is_published_with_its_certificate(made: tuple[Path, ReportData]) -> None:
    out, _ = made
    listed = {one.path for one in Manifest.model_validate_json((out / "manifest.json").read_bytes()).files}
    whole = Certificate.model_validate_json((out / "certificate.json").read_bytes())
    for name in NAMES:
        folder = out / "quantized" / name
        assert {f"quantized/{name}/{path.name}" for path in folder.iterdir()} <= listed
        found = QuantizedWeights.model_validate_json((folder / "quantized.json").read_bytes())
        assert (found.matrices, found.held) == (28, whole.held)
        assert found.zeros >= found.held
        certificate = Certificate.model_validate_json((folder / "certificate.json").read_bytes())
        assert certificate.holds
        assert [check.at for check in certificate.checks] == ["quantized"]
        assert [one.keep_sha256 for one in certificate.tensors] == [one.keep_sha256 for one in whole.tensors]
    assert found.bytes < found.ordinary_bytes


def test_verify_has_opened_each_form(made: tuple[Path, ReportData]) -> None:
    verified = Verification.model_validate_json((made[0] / "verification.json").read_bytes())
    assert sorted(one.name for one in verified.quantized) == sorted(NAMES)
    assert {one.model_class for one in verified.quantized} == {"LlamaForCausalLM"}
    assert all(one.logits.largest_difference <= one.logits.tolerance for one in verified.quantized)


def test_a_form_opens_by_itself(made: tuple[Path, ReportData], tmp_path: Path) -> None:
    alone = shutil.copytree(made[0] / "quantized" / NAMES[0], tmp_path / "alone")
    model = AutoModelForCausalLM.from_pretrained(alone)
    assert "sparsity_config" not in json.loads((alone / "config.json").read_bytes())
    assert model.generate(max_new_tokens=3, do_sample=False).shape[1] > 1


def test_the_report_has_perplexities_of_what_was_read_back(made: tuple[Path, ReportData]) -> None:
    out, data = made
    assert [form.weights.name for form in data.quantized] == NAMES
    digests = {form.evaluation.checkpoint_digest for form in data.quantized}
    assert len(digests) == 3
    summary = json.loads((out / "report.json").read_bytes())["summary"]
    assert list(summary["quantized"]) == NAMES
    page = (out / "report.html").read_text()
    assert 'id="quantized-table"' in page
    assert "quantized/gguf-q4_0/" in page
    assert "`quantized/fp8-channel/`" in (out / "README.md").read_text()
