"""A published directory is opened before it counts; whatever is planted in its storage is found and named."""

import json
from pathlib import Path

import pytest

from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.refs import ManifestRef
from pipeline.errors import VerificationFailed, WorkerLost
from tests.workers.planted import (
    Change,
    Plant,
    added,
    cut,
    field,
    flipped,
    gone,
    removed,
    renamed,
    revived,
    swapped,
    text,
    turned_into,
    value,
    weights,
)
from tests.workers.verified_jobs import FinishedJob, finished_job
from workers.failures import reason_for
from workers.verification.answer import Opening
from workers.verification.process import OpeningProcess

pytestmark = pytest.mark.usefixtures("one_thread")

SHARD = "model-00002-of-00005.safetensors"  # of block 0
OUTER = "model-00001-of-00005.safetensors"
BLOCK = "model.layers.0"
UP = f"{BLOCK}.mlp.up_proj.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """A pruned model, verified by a real process of its own."""
    return finished_job(tmp_path_factory.mktemp("published"), "llama")


def in_block(change: Change) -> Plant:
    return weights(SHARD, change)


def in_config(*path: str, to: object) -> Plant:
    return field("config.json", *path, to=to)


FAULTS: dict[str, tuple[Plant, str]] = {
    "flipped byte": (flipped(SHARD), rf"{SHARD}.*tensor {BLOCK}\.\S+ is \S+ at \[.*\], and was"),
    "revived weight": (in_block(revived(UP)), rf"{SHARD}.*tensor {UP} is 0\.5 at \[.*\], and was 0;"),
    "NaN": (in_block(value(UP, float("nan"))), rf"{SHARD}.*tensor {UP} is nan at \[0, 0\]"),
    "infinity": (in_block(value(UP, float("inf"), where=70)), rf"{SHARD}.*tensor {UP} is inf at \[1, 6\]"),
    "wrong shape": (
        in_block(turned_into(UP, lambda w: w[:-1])),
        rf"{UP} is F32 \[127, 64\], and was F32 \[128",
    ),
    "transposed": (in_block(turned_into(UP, lambda w: w.t())), rf"{UP} is F32 \[64, 128\], and was"),
    "wrong type": (in_block(turned_into(UP, lambda w: w.half())), rf"{SHARD}.*{UP} is F16 .*, and was F32"),
    "permuted rows": (in_block(turned_into(UP, lambda w: w.flip(0))), rf"{SHARD}.*tensor {UP} is "),
    "renamed tensor": (in_block(renamed(UP, f"{UP}s")), rf"{SHARD}.*tensor {UP} is missing"),
    "missing tensor": (in_block(removed(UP)), rf"{SHARD}.*tensor {UP} is missing"),
    "extra tensor": (
        in_block(added("extra.bias", (3,))),
        rf"{SHARD}.*tensor extra\.bias is there, and was not",
    ),
    "untied head": (
        weights(OUTER, added("lm_head.weight", (384, 64))),
        rf"{OUTER}.*tensor lm_head\.weight is there, and was not",
    ),
    "truncated shard": (cut(SHARD, 0.9), rf"{SHARD}.*header describes.*tensor {BLOCK}\.\S+ is cut"),
    "truncated header": (cut(SHARD, 0.003), rf"{SHARD}.*header is cut"),
    "empty shard": (cut(SHARD, 0), rf"{SHARD}.*it is empty"),
    "missing shard": (gone(SHARD), rf"{SHARD} is missing"),
    "swapped shards": (swapped(SHARD, OUTER), rf"{OUTER}.*tensor model\.embed_tokens\.weight is missing"),
    "stale index": (
        field(INDEX, "weight_map", UP, to=OUTER),
        rf"{INDEX}.*field weight_map\.{UP} is \"{OUTER}",
    ),
    "no index": (gone(INDEX), rf"{INDEX} is missing"),
    "vocab_size": (in_config("vocab_size", to=385), r"config\.json.*field vocab_size is 385, and was 384"),
    "rope": (
        in_config("rope_parameters", "rope_theta", to=1e6),
        r"config\.json.*field rope_parameters\.rope_theta is 1000000\.0, and was",
    ),
    "norm eps": (
        in_config("rms_norm_eps", to=1e-5),
        r"config\.json.*field rms_norm_eps is 1e-05, and was 1e-06",
    ),
    "activation": (in_config("hidden_act", to="gelu"), r'config\.json.*field hidden_act is "gelu"'),
    "heads": (
        in_config("num_attention_heads", to=8),
        r"config\.json.*field num_attention_heads is 8, and was 4",
    ),
    "blocks": (
        in_config("num_hidden_layers", to=5),
        r"config\.json.*field num_hidden_layers is 5, and was 4",
    ),
    "another type": (in_config("model_type", to="mistral"), r'config\.json.*field model_type is "mistral"'),
    "tie flag": (in_config("tie_word_embeddings", to=False), r"config\.json.*tie_word_embeddings is false"),
    "dtype": (
        in_config("dtype", to="bfloat16"),
        r'config\.json.*field dtype is "bfloat16", and was "float32"',
    ),
    "end token": (in_config("eos_token_id", to=7), r"config\.json.*field eos_token_id is 7, and was 1"),
    "remote code": (
        in_config("auto_map", to={"AutoConfig": "mine.Config"}),
        r"config\.json.*field auto_map is .*mine\.Config.*, and was not there",
    ),
    "config not JSON": (text("config.json", "{"), r"config\.json.*it is not JSON"),
    "no config": (gone("config.json"), r"config\.json is missing"),
    "no tokenizer": (gone("tokenizer.json"), r"tokenizer\.json is missing"),
    "other ids": (
        field("tokenizer.json", "model", "vocab", to=lambda vocab: {t: i ^ 1 for t, i in vocab.items()}),
        r"tokenizer\.json.*field model\.vocab\.\S+ is",
    ),
    "another EOS": (
        field("tokenizer_config.json", "eos_token", to="<s>"),
        r'tokenizer_config\.json.*field eos_token is "<s>", and was "</s>"',
    ),
    "no generation config": (gone("generation_config.json"), r"generation_config\.json is missing"),
    "generation": (
        field("generation_config.json", "eos_token_id", to=[1, 5]),
        r"generation_config\.json.*field eos_token_id is \[1, 5\], and was 1",
    ),
    "no card": (gone("README.md"), r"README\.md is missing"),
    "changed card": (text("README.md", "# another\n"), r"README\.md.*line 1 is"),
    "digest": (
        field("secateur.json", "digests", "weights", SHARD, to="0" * 64),
        r"secateur\.json.*field digests\.weights\.\S+ is \"0000",
    ),
    "sparsity": (field("secateur.json", "sparsity", to=0.7), r"secateur\.json.*field sparsity is 0\.7"),
    "certificate": (
        field("certificate.json", "tensors", to=lambda tensors: tensors[1:]),
        r"certificate\.json.*field tensors is",
    ),
    "masks": (flipped("masks/masks.safetensors"), r"masks/masks\.safetensors.*tensor model\.layers\.\S+ is"),
    "stray weights": (
        text("pytorch_model.bin", "x"),
        r"pytorch_model\.bin lies in .*, and was not|and was not published",
    ),
    "stray shard": (text("model.safetensors", "x"), r"model\.safetensors lies in .* and was not published"),
}


@pytest.mark.usefixtures("opened_here")
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_planted_in_the_storage_is_found_and_named(
    fault: str, job: FinishedJob, tmp_path: Path
) -> None:
    plant, message = FAULTS[fault]
    planted = job.copied(tmp_path)
    plant(planted.directory)
    with pytest.raises(VerificationFailed, match=message) as failed:
        planted.verify()
    reason = reason_for(failed.value, node="verify")
    assert reason.code == "verification_failed"
    assert not reason.retryable
    assert not (planted.directory / "manifest.json").exists()
    assert not (planted.directory / "verification.json").exists()


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 30


def test_what_passes_is_listed_and_says_what_was_checked(job: FinishedJob, tmp_path: Path) -> None:
    copy = job.copied(tmp_path)
    made = copy.verify()  # by a real process
    manifest = made.artifacts["manifest"]
    assert isinstance(manifest, ManifestRef)
    listed = [entry.path for entry in manifest.load(copy.content, Manifest).files]
    assert listed == sorted({file.path for file in copy.published.files} | {"verification.json"})
    assert (copy.directory / "manifest.json").read_bytes() == (job.directory / "manifest.json").read_bytes()
    found = json.loads((copy.directory / "verification.json").read_text())
    assert found["opened"]["model_class"] == "LlamaForCausalLM"
    assert found["tensors"] == 38
    assert found["zeros"] == 73728
    assert made.peak_memory_bytes is not None
    assert made.peak_memory_bytes > 2**28


def test_a_lost_blob_leaves_the_digests_to_be_told(job: FinishedJob, tmp_path: Path) -> None:
    planted = job.copied(tmp_path)
    flipped(SHARD)(planted.directory)
    blob = next(file.blob for file in planted.published.files if file.path == SHARD)
    planted.content.store.delete(planted.content.key(blob))
    with pytest.raises(VerificationFailed, match=f"{SHARD} .* SHA-256 is .*, and was {blob.digest}"):
        planted.verify()


def test_a_real_process_tells_what_does_not_open(job: FinishedJob, tmp_path: Path) -> None:
    copy = job.copied(tmp_path)
    in_config("model_type", to="no-such-type")(copy.directory)
    opening = Opening(directory=copy.directory, aside=tmp_path, weights="in_memory", threads=1)
    with OpeningProcess(tmp_path, threads=1) as process:
        answer = process.open(opening)
    with pytest.raises(VerificationFailed, match=r"transformers cannot open config\.json.*no-such-type"):
        _ = answer.model


def test_a_process_that_is_killed_is_tried_again(job: FinishedJob, tmp_path: Path) -> None:
    opening = Opening(directory=job.directory, aside=tmp_path, weights="in_memory", threads=1)
    with OpeningProcess(tmp_path, threads=1) as process:
        process._process.kill()
        process._process.wait()
        with pytest.raises(WorkerLost, match="signal 9") as lost:
            process.open(opening)
    assert reason_for(lost.value, node="verify").retryable


def test_a_process_is_ended_when_an_earlier_check_fails(tmp_path: Path) -> None:
    with OpeningProcess(tmp_path, threads=1) as process:
        assert process._process.poll() is None
    assert process._process.returncode is not None
