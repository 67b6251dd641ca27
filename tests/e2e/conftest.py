"""Two whole services: one on a local directory and SQLite, one on SeaweedFS and PostgreSQL. They end after
the last test of this folder, because idle ones compute too."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from api.service.jobs.views import JobView
from tests.e2e.service import Service
from tests.e2e.test_job import finished, request
from tests.models import tiny_checkpoint, tiny_documents, tiny_text, tiny_tokenizer
from tests.servers import S3Server
from tests.storage.gate import Gate, gate_before

BUCKET = "secateur-e2e"


@pytest.fixture(scope="session")
def material() -> Iterator[Path]:
    """`llama/` and `mistral/` are tiny; `deep/` has enough blocks to be interrupted. `text.txt`, and `tasks/`
    with lm-eval tasks: `trees`, `apples`, and `garden`, the group of both."""
    with tempfile.TemporaryDirectory(prefix="sec-") as name:
        directory = Path(name)
        tiny_checkpoint("llama", directory / "llama")
        tiny_checkpoint("mistral", directory / "mistral")
        deep_checkpoint(directory / "deep")
        tiny_text(directory, documents=tiny_documents(count=48, words=160))
        eval_tasks(directory / "tasks")
        yield directory


def eval_tasks(directory: Path) -> None:
    """Four questions with two choices, asked in two ways."""
    directory.mkdir()
    rows = [{"q": f"Is {i} apples many?", "right": i % 2} for i in range(4)]
    (directory / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, prompt in (("trees", "{{q}}"), ("apples", "Q: {{q}}\nA:")):
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"validation": "questions.jsonl"}},
            "validation_split": "validation",
            "output_type": "multiple_choice",
            "doc_to_text": prompt,
            "doc_to_choice": ["yes", "no"],
            "doc_to_target": "right",
        }
        (directory / f"{name}.yaml").write_text(json.dumps(task))
    group = {"group": "garden", "task": ["trees", "apples"], "aggregate_metric_list": [{"metric": "acc"}]}
    (directory / "garden.yaml").write_text(json.dumps(group))


def deep_checkpoint(directory: Path) -> None:
    """16 blocks. A test that interrupts something holds it at the gate, so they may be small and fast."""
    tokenizer = tiny_tokenizer("llama")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    set_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@pytest.fixture(scope="package")
def local_service(material: Path) -> Iterator[Service]:
    """Embedded defaults."""
    yield from _serving(material, lambda state: f"file://{state}/storage", {})


@pytest.fixture(scope="package")
def small_job(local_service: Service, material: Path) -> JobView:
    """A job that has succeeded, with one worker, and nothing but OWL, Wanda and perplexities."""
    done = finished(local_service, request(material, "mistral", workers=1))
    assert done.status == "succeeded", done.error
    return done


@pytest.fixture(scope="session")
def cloud_gate(seaweedfs_server: S3Server) -> Iterator[Gate]:
    """The gate through which the service on S3 reaches its storage."""
    with gate_before(seaweedfs_server) as gate:
        yield gate


@pytest.fixture(scope="package")
def cloud_service(
    material: Path, seaweedfs_server: S3Server, cloud_gate: Gate, postgres_url: str
) -> Iterator[Service]:
    """S3 and PostgreSQL."""
    seaweedfs_server.make_bucket(BUCKET)
    plain = postgres_url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("create database e2e")
    environment = {
        "SECATEUR_DATABASE_URL": make_url(postgres_url).set(database="e2e").render_as_string(False),
        "SECATEUR_S3_ENDPOINT_URL": cloud_gate.server.endpoint,
        "SECATEUR_S3_ACCESS_KEY": cloud_gate.server.access_key,
        "SECATEUR_S3_SECRET_KEY": cloud_gate.server.secret_key,
    }
    yield from _serving(material, lambda state: f"s3://{BUCKET}/{state.name}", environment)


def _serving(material, storage_url, environment) -> Iterator[Service]:
    state = Path(tempfile.mkdtemp(prefix="sec-"))
    (state / "storage_url").write_text(storage_url(state))
    service = Service(
        state,
        {
            "SECATEUR_STORAGE_URL": storage_url(state),
            "SECATEUR_ALLOWED_ROOTS": str(material),
            "SECATEUR_POLL_SECONDS": "0.3",
            "SECATEUR_LEASE_SECONDS": "3",
            "SECATEUR_RAY_NUM_CPUS": "2",
            "SECATEUR_CACHE_DIR": str(state / "cache"),
            "SECATEUR_SNAPSHOT_SECONDS": "0",  # after every block, for tests that count blocks
            **environment,
        },
    )
    service.start()
    try:
        yield service
    finally:
        service.stop()
        shutil.rmtree(state, ignore_errors=True)
