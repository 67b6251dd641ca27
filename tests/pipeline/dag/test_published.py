"""`verify` stands between publishing and the manifest, also for those who look for the manifest."""

from pathlib import Path

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import ArtifactRef, ManifestRef, PublishedRef
from pipeline.dag.plan import plan
from pipeline.job.ledger import Measured, NodeResult, StageResult, find_result, manifest_of, stage_result_key
from pipeline.request.prune_spec import PruneSpec
from pipeline.storage import ContentStore, LocalStore
from tests.made_pins import made_pins
from tests.pipeline.report.made_report import made_stage, made_stages

PRUNE = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}
VOCABULARY = {"size": 64, "texts": [{"source": "file:/t.txt"}]}
MANIFEST = ManifestRef(files=(), prefix="published/x")


def inputs_of_verify(**parts: object) -> dict[str, str]:
    spec = PruneSpec.model_validate({"model": {"source": "file:/m"}, **parts})
    node = plan(spec, made_pins(spec))["verify"]
    return {name: f"{given.node}.{given.artifact}" for name, given in node.inputs.items()}


def test_what_is_opened_is_held_against_the_final_checkpoint_and_its_masks() -> None:
    pruned = {"published": "publish.published", "checkpoint": "prune.checkpoint", "keep": "prune.keep"}
    assert inputs_of_verify(prune=PRUNE) == pruned
    recovery = {"text": {"source": "file:/t.txt"}, "steps": 100}
    assert inputs_of_verify(prune=PRUNE, recovery=recovery) == {
        "published": "publish.published",
        "checkpoint": "recover.checkpoint",
        "keep": "recover.keep",
    }
    assert inputs_of_verify(structure={"vocabulary": VOCABULARY}) == {
        "published": "publish.published",
        "checkpoint": "cut_vocabulary.checkpoint",
    }


def test_the_manifest_of_a_job_is_found_whichever_stage_made_it() -> None:
    earlier = made_stages()  # its `publish` made the manifest, as in earlier versions
    assert manifest_of(earlier) == earlier[-1].artifacts["manifest"]
    now = (*earlier[:-1], made_stage("publish", {}, 1.0), made_stage("verify", {"manifest": MANIFEST}, 1.0))
    assert manifest_of(now) == MANIFEST
    assert manifest_of(earlier[:-1]) is None
    stored = NodeResult.model_validate_json(earlier[-1].model_dump_json())
    assert manifest_of([stored]) == earlier[-1].artifacts["manifest"]


def test_a_directory_that_lost_a_file_is_published_again(tmp_path: Path) -> None:
    content = ContentStore(LocalStore(tmp_path))
    file = FileRef(path="config.json", blob=content.put_bytes(b"{}"))
    published: dict[str, ArtifactRef] = {"published": PublishedRef(files=(file,), prefix="published/x")}
    result = StageResult(
        kind="publish",
        version=5,
        key="k",
        artifacts=published,
        measured=Measured(seconds=1),
        made_at="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
    )
    content.put_model(stage_result_key("k"), result)
    assert find_result(content, "k") is None
    content.store.put("published/x/config.json", [b"{}"])
    assert find_result(content, "k") == result
    content.store.put("published/x/config.json", [b"{ }"])
    assert find_result(content, "k") is None
