"""`secateur.prune`: a whole job in this process, from a directory to a directory."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import secateur
from pipeline.errors import InvalidSpec, NumericalError, SecateurError
from pipeline.job.events import StageFinished, StageProgress
from pipeline.report.data import ReportDocument
from pipeline.report.sweep import SweepDocument
from pipeline.request.spec_files import SpecError
from tests.models import tiny_checkpoint, tiny_documents, tiny_text
from workers.places import PLACES

pytestmark = pytest.mark.usefixtures("opened_here")

README = Path(__file__).parents[2] / "README.md"
NM = {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model/` and `text.txt`."""
    directory = tmp_path_factory.mktemp("library")
    tiny_checkpoint("llama", directory / "model")
    tiny_text(directory, documents=tiny_documents(count=48, words=160))
    return directory


def spec(material: Path, **prune: object) -> dict:
    """Wanda at one half, with perplexities."""
    text = f"file:{material}/text.txt"
    return {
        "calibration": {"source": text, "samples": 6, "sequence_length": 32},
        "prune": {
            "method": {"kind": "wanda"},
            "pattern": {"kind": "unstructured", "sparsity": 0.5},
            **prune,
        },
        "evaluation": {"perplexity": [{"source": text, "sequence_length": 32, "windows": 4}]},
    }


def test_the_result_is_an_ordinary_checkpoint_with_its_report(material: Path, tmp_path: Path) -> None:
    pruned = secateur.prune(material / "model", spec(material), tmp_path / "out", threads=1)
    assert pruned.directory == tmp_path / "out"
    model = AutoModelForCausalLM.from_pretrained(pruned.directory)
    AutoTokenizer.from_pretrained(pruned.directory)
    weights = [module.weight for name, module in model.named_modules() if name.endswith("_proj")]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    assert zeros == pytest.approx(0.5, abs=1e-4)
    assert isinstance(pruned.report, ReportDocument)
    assert pruned.report.data.plan is not None
    assert pruned.report.data.plan.sparsity == (0.5,) * 4
    assert json.loads((pruned.directory / "report.json").read_text())["data"]["model_name"] == "model"
    assert "<html" in (pruned.directory / "report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]  # nothing is left beside it


def test_the_example_of_the_readme(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word for word, but for the length that a tiny model can read."""
    (code,) = re.findall(r"```python\n(import secateur.*?)```", README.read_text(), flags=re.DOTALL)
    data = tmp_path / ".secateur" / "demo" / "data"
    data.mkdir(parents=True)
    shutil.copytree(material / "model", data / "smollm2-135m-instruct")
    shutil.copy(material / "text.txt", data / "calibration.txt")
    monkeypatch.chdir(tmp_path)
    assert '"sequence_length": 512' in code
    exec(code.replace('"sequence_length": 512', '"sequence_length": 32'), {})  # noqa: S102 - our own page
    assert f"{tmp_path}/pruned (0." in capsys.readouterr().out
    assert (tmp_path / "pruned" / "report.html").is_file()


def test_every_stage_that_walks_the_blocks_reports_its_use(material: Path, tmp_path: Path) -> None:
    told: list[object] = []
    candidates = [{"kind": "owl", "multiplier": 3, "spread": 0.05}]
    asked = spec(material, allocation={"kind": "tournament", "candidates": candidates, "samples": 2})
    secateur.prune(material / "model", asked, tmp_path / "out", threads=1, told=told.append)
    kinds = {"measure_statistics", "measure_blocks", "judge", "prune", "evaluate"}
    walking = {kind for kind, place in PLACES.items() if place.where == "gang"}
    assert walking == {*kinds, "round"}  # for which test_quantize.py has a job
    walked = {
        event.result.node.partition(":")[0]: event.result.measured
        for event in told
        if isinstance(event, StageFinished)
    }
    walked = {kind: measured for kind, measured in walked.items() if kind in kinds}
    assert walked.keys() == kinds
    for kind, measured in walked.items():
        assert measured.peak_memory_bytes, kind
        assert measured.details["idle_memory_bytes"] > 0, kind
        assert (measured.details["forwards"] + measured.details["cut_forwards"] > 0) == (
            kind != "measure_blocks"
        ), kind
    assert walked["evaluate"].details["tokens"] > 0


def test_a_spec_in_a_file_counts_sources_from_its_directory(material: Path, tmp_path: Path) -> None:
    asked = spec(Path("/nowhere"))
    text = json.dumps(asked).replace("file:/nowhere/text.txt", "file:text.txt")
    (material / "spec.yaml").write_text(text)
    pruned = secateur.prune(material / "model", material / "spec.yaml", tmp_path / "out")
    assert isinstance(pruned.report, ReportDocument)
    assert pruned.report.data.dense.perplexity[0].perplexity > 1


def test_storage_that_stays_is_gone_on_from(material: Path, tmp_path: Path) -> None:
    """The second call finds the blocks of the one that broke off, and makes the bits of an undisturbed
    one."""

    class Broken(Exception):
        pass

    def break_off(event: object) -> None:
        if isinstance(event, StageProgress) and event.node == "prune" and event.done == 2:
            raise Broken

    asked, storage = spec(material), tmp_path / "storage"
    with pytest.raises(SecateurError, match="Broken"):
        secateur.prune(
            material / "model", asked, tmp_path / "out", threads=1, storage=storage, told=break_off
        )
    assert not (tmp_path / "out").exists()
    said: list[object] = []
    secateur.prune(material / "model", asked, tmp_path / "out", threads=1, storage=storage, told=said.append)
    # The records are written by a thread, so more blocks may be recorded than were told of.
    assert any(re.search("[234] of 4 blocks are stored already", str(event)) for event in said)
    secateur.prune(material / "model", asked, tmp_path / "again", threads=1)
    for file in (tmp_path / "out").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_a_sweep_ends_in_its_report(material: Path, tmp_path: Path) -> None:
    asked = {**spec(material), "sweep": {"methods": [{"kind": "magnitude"}, {"kind": "wanda"}]}}
    pruned = secateur.prune(material / "model", asked, tmp_path / "out", threads=1)
    assert isinstance(pruned.report, SweepDocument)
    assert sorted(path.name for path in pruned.directory.iterdir()) == ["report.html", "report.json"]


@pytest.mark.parametrize(
    ("changes", "field", "remedy"),
    [
        ({"model": {"source": "file:/x"}}, "spec.model", "leave it out"),
        ({"prune": {**NM, "method": {"kind": "wonda"}}}, "spec.prune.method.kind", "did you mean 'wanda'"),
        ({"prune": NM, "calibrate": {}}, "spec.calibrate", "did you mean 'calibration'"),
    ],
)
def test_specs_that_cannot_be_used(material: Path, tmp_path: Path, changes, field, remedy) -> None:
    with pytest.raises(InvalidSpec, match=remedy) as refused:
        secateur.prune(material / "model", {"prune": NM, **changes}, tmp_path / "out")
    assert refused.value.param == field
    assert list(tmp_path.iterdir()) == []


def test_what_trains_is_refused_before_anything_is_done(material: Path, tmp_path: Path) -> None:
    recovery = {
        "text": {"source": f"file:{material}/text.txt", "sequence_length": 32},
        "tokens": 2560,
        "global_batch_size": 2,
        "objective": {"kind": "distillation"},
    }
    told: list[object] = []
    with pytest.raises(InvalidSpec, match=r"secateur run SPEC\.yaml") as refused:
        secateur.prune(
            material / "model", {"prune": NM, "recovery": recovery}, tmp_path / "out", told=told.append
        )
    assert refused.value.param == "spec.recovery"
    assert not any(isinstance(event, StageFinished) for event in told)


def test_a_model_that_is_not_there_and_an_out_that_is(material: Path, tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="nothing"):
        secateur.prune(tmp_path / "nothing", {"prune": NM}, tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidSpec, match="exists"):
        secateur.prune(material / "model", {"prune": NM}, tmp_path / "out")
    with pytest.raises(SpecError, match="cannot read"):
        secateur.prune(material / "model", tmp_path / "spec.yaml", tmp_path / "other")


def test_an_error_of_a_stage_is_raised_as_itself(material: Path, tmp_path: Path) -> None:
    broken = tiny_checkpoint("llama", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 3e38
    model.save_pretrained(broken)
    with pytest.raises(NumericalError):
        secateur.prune(broken, spec(material), tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()


def test_opening_the_door_loads_nothing(tmp_path: Path) -> None:
    code = "import sys, secateur; sys.exit(bool({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_ray_is_started(material: Path, tmp_path: Path) -> None:
    code = (
        "import sys, secateur; secateur.prune(*sys.argv[1:3], sys.argv[3]); "
        "ray = sys.modules.get('ray'); sys.exit(ray is not None and ray.is_initialized())"
    )
    (tmp_path / "spec.json").write_text(json.dumps(spec(material)))
    command = [sys.executable, "-c", code, str(material / "model"), str(tmp_path / "spec.json")]
    assert subprocess.run([*command, str(tmp_path / "out")], check=False).returncode == 0
