"""What is published carries a statement of where it comes from, which others' tools can read."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import secateur
from tests.attestations import check_statement
from tests.models import tiny_checkpoint, tiny_text

pytestmark = pytest.mark.usefixtures("all_opened_here")

SECRETS = {
    "SECATEUR_HUB_TOKEN": "hf_secretsecretsecret",
    "SECATEUR_S3__ACCESS_KEY_ID": "AKIASECRETSECRET",
    "SECATEUR_S3__SECRET_ACCESS_KEY": "secretsecretsecretkey",
    "WANDB_API_KEY": "wandbsecretsecret",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model/`, `text.txt`, and the results of two equal calls with one storage, `out/` and `again/`."""
    place = tmp_path_factory.mktemp("provenance")
    tiny_checkpoint("llama", place / "model")
    tiny_text(place)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        for out in ("out", "again"):
            secateur.prune(place / "model", spec(place), place / out, threads=1, storage=place / "storage")
    return place


def spec(place: Path) -> dict[str, Any]:
    text = f"file:{place}/text.txt"
    return {
        "calibration": {"source": text, "samples": 4, "sequence_length": 32, "seed": 7},
        "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
    }


def statement(place: Path, out: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / out / "provenance.json").read_text())
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_follows_the_standards(place: Path) -> None:
    check_statement(statement(place))


def test_its_subjects_are_the_published_files(place: Path) -> None:
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement(place)["subject"]}
    beside = {"provenance.json", "report.html", "report.json"}
    files = {
        path.relative_to(place / "out").as_posix()
        for path in (place / "out").rglob("*")
        if path.is_file() and path.name not in beside
    }
    assert subjects.keys() == files
    assert "manifest.json" in files
    for path, expected in subjects.items():
        assert digest(place / "out" / path) == expected, path
    listed = json.loads((place / "out" / "manifest.json").read_text())["files"]
    assert "provenance.json" not in {one["path"] for one in listed}


def test_it_names_inputs_code_machine_seeds_and_durations(place: Path) -> None:
    definition = statement(place)["predicate"]["buildDefinition"]
    details = statement(place)["predicate"]["runDetails"]
    inputs = {one["name"]: one for one in definition["resolvedDependencies"]}
    for path in (place / "model").iterdir():
        expected = {"sha256": digest(path)}
        assert inputs[f"spec.model.source/{path.name}"]["digest"] == expected, path
    assert inputs["spec.calibration.source/text.txt"]["digest"] == {"sha256": digest(place / "text.txt")}
    assert inputs["torch"]["uri"] == f"pkg:pypi/torch@{version('torch').replace('+', '%2B')}"
    assert inputs["secateur"]["digest"]["sha256"]
    assert definition["externalParameters"]["spec"]["prune"]["method"]["kind"] == "wanda"
    assert definition["internalParameters"]["seeds"] == {"calibration": 7}
    machine = definition["internalParameters"]["machine"]
    assert machine["cpuModel"]
    assert machine["memoryBytes"] > 0
    assert machine["gpus"] == []
    made = {one["name"]: one["annotations"] for one in details["byproducts"]}
    assert {"import_model/checkpoint", "prune/checkpoint"} <= made.keys()
    assert all(one["seconds"] >= 0 and not one["fromCache"] for one in made.values())


def test_it_has_no_secrets_and_no_name_of_a_machine(place: Path) -> None:
    text = (place / "out" / "provenance.json").read_text()
    for secret in SECRETS.values():
        assert secret not in text
    machine = statement(place)["predicate"]["buildDefinition"]["internalParameters"]["machine"]
    assert machine.keys() <= {"cpuModel", "cores", "threadsPerWorker", "memoryBytes", "gpus"}


def test_the_statement_of_the_job_that_made_the_files_stays(place: Path) -> None:
    """The second job found everything in the cache. Its own statement says so; the stored one is the
    first's."""
    (stored,) = (place / "storage" / "published").glob("*/provenance.json")
    assert stored.read_bytes() == (place / "out" / "provenance.json").read_bytes()
    second = statement(place, "again")
    check_statement(second)
    assert second["subject"] == statement(place)["subject"]
    assert all(one["annotations"]["fromCache"] for one in second["predicate"]["runDetails"]["byproducts"])


@pytest.mark.parametrize("other", ["{}", "of another manifest"])
def test_a_statement_about_other_files_is_replaced(place: Path, tmp_path: Path, other: str) -> None:
    (stored,) = (place / "storage" / "published").glob("*/provenance.json")
    before = stored.read_text()
    manifest = digest(place / "out" / "manifest.json")
    stored.write_text(other if other == "{}" else before.replace(manifest, "0" * 64))
    secateur.prune(place / "model", spec(place), tmp_path / "out", threads=1, storage=place / "storage")
    assert json.loads(stored.read_text())["subject"] == json.loads(before)["subject"]
    stored.write_text(before)
