"""What the service makes of a stock model of every type passes its own verification."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.refs import ManifestRef, VerificationRef
from pipeline.artifacts.verification import Verification
from tests.models import EVERY, tiny_text
from tests.workers.verified_jobs import PRUNE, finished_job

pytestmark = pytest.mark.usefixtures("one_thread", "opened_here")


def verified(root: Path, kind: str, **options: Any) -> Verification:
    """What the job found when it opened its own result."""
    job = finished_job(root, kind, **options)
    made = job.verify()
    manifest, document = made.artifacts["manifest"], made.artifacts["verification"]
    assert isinstance(manifest, ManifestRef)
    assert isinstance(document, VerificationRef)
    assert (job.directory / "manifest.json").is_file()
    assert (job.directory / "verification.json").is_file()
    return document.load(job.content, Verification)


@pytest.mark.parametrize("kind", EVERY)
def test_every_type_opens_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    found = verified(tmp_path, kind)
    assert found.opened.logits.largest_difference == 0
    assert found.opened.logits.tokens > 8
    assert found.opened.generated > 0
    assert found.zeros > 0
    assert found.remarks == ()
    assert found.opened.tokenizer is not None
    assert "certificate.json" in found.documents


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_are_opened_in_their_own(dtype: str, tmp_path: Path) -> None:
    found = verified(tmp_path, "llama", checkpoint={"dtype": dtype, "max_shard_size": "100KB"})
    assert (found.opened.logits.dtype, found.opened.logits.largest_difference) == (dtype, 0)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "mixtral", "bloom"])
def test_weights_larger_than_the_memory_are_opened_from_the_disk(kind: str, tmp_path: Path) -> None:
    found = verified(tmp_path, kind, memory="64MiB")
    assert found.opened.weights == "from_disk"
    assert found.opened.logits.largest_difference == 0
    assert found.opened.tied == (kind in ("llama", "gpt2", "bloom"))


def test_cut_models_open(tmp_path: Path) -> None:
    text = {"source": f"file:{tiny_text(tmp_path)}"}
    structure = {
        "intermediate_size": 96,
        "drop_blocks": {"kind": "spaced", "num_blocks": 2},
        "criterion": {"kind": "magnitude"},
        "vocabulary": {"size": 320, "texts": [text]},
    }
    found = verified(tmp_path, "llama", structure=structure)
    assert found.opened.tokenizer is not None
    assert found.opened.tokenizer.tokens == 320
    assert {"cut.json", "vocabulary.json"} <= {*found.documents}
    assert found.zeros == 0
    both = verified(tmp_path / "both", "llama", structure=structure, prune=PRUNE)
    assert both.zeros > 0


def test_a_model_without_a_tokenizer_is_opened_by_numbers(tmp_path: Path) -> None:
    def without_tokenizer(model: Path) -> None:
        for path in model.glob("tokenizer*"):
            path.unlink()

    found = verified(tmp_path, "opt", made=without_tokenizer)
    assert found.opened.tokenizer is None
    assert found.remarks == ("there is no tokenizer beside the model",)
    assert found.opened.logits.tokens == 32
