"""The night: a checkpoint arrives file by file, is pruned, judged and promoted; a damaged one is not."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from api.key_file import read_key
from api.service.schedules.views import FiringView, ScheduleView
from pipeline.storage import Store, open_store
from tests.e2e.conftest import BUCKET
from tests.e2e.service import Service
from tests.models import PARAGRAPH, tiny_checkpoint
from tests.servers import S3Server

pytestmark = pytest.mark.e2e
PATIENCE_SECONDS = 1500  # a busy machine needs a part of it
Seen = TypeVar("Seen")


@pytest.fixture(scope="module")
def bucket(seaweedfs_server: S3Server, cloud_service: Service) -> tuple[str, Store]:
    """Where the training cluster leaves its checkpoints."""
    url = f"s3://{BUCKET}/{cloud_service.state_dir.name}-training/nightly"
    return url, open_store(url, seaweedfs_server.options)


@pytest.fixture(scope="module")
def second_api(cloud_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Another API process on the same database, storage and Ray."""
    ray = json.loads((cloud_service.state_dir / "ray.json").read_text())
    second = Service(
        tmp_path_factory.mktemp("second"),
        {
            **cloud_service.environment,
            "SECATEUR_RAY_ADDRESS": ray["address"],
            "SECATEUR_RAY_TOKEN_PATH": str(cloud_service.state_dir / "ray-token"),
            "SECATEUR_DRIVER_PYTHON": sys.executable,
        },
    )
    second.start()
    try:
        yield second
    finally:
        second.stop()


@pytest.fixture(scope="module")
def night(material: Path) -> Path:
    """`good/`: a tiny model that has learnt its text; `damaged/`: the same with noise in its FFNs; and what
    they are judged by: `text.txt`, and the eval task `endings` (which of four ends belongs to a sentence)."""
    directory = material / "night"
    good = tiny_checkpoint("llama", directory / "good")
    sentences = [s.strip() + "." for s in PARAGRAPH.replace("\n", " ").split(".") if s.strip()]
    (directory / "text.txt").write_text("\n".join(" ".join(sentences) for _ in range(8)))
    _write_task(directory / "tasks", sentences)
    tokenizer = AutoTokenizer.from_pretrained(good)
    model = AutoModelForCausalLM.from_pretrained(good)
    _teach(model, torch.tensor(tokenizer(" ".join(sentences))["input_ids"]))
    model.save_pretrained(good, max_shard_size="200KB")
    (good / "model.safetensors").unlink(missing_ok=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "mlp" in name:
                weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(directory / "damaged")
    tokenizer.save_pretrained(directory / "damaged")
    return directory


def _write_task(directory: Path, sentences: list[str]) -> None:
    directory.mkdir()
    halves = [sentence.split(" ") for sentence in sentences]
    endings = [" ".join(words[len(words) // 2 :]) for words in halves]
    rows = [
        {
            "beginning": " ".join(words[: len(words) // 2]),
            "endings": [endings[(i + shift) % len(endings)] for shift in (1, 0, 2, 3)],
            "right": 1,
        }
        for i, words in enumerate(halves)
    ]
    (directory / "endings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "endings",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "endings.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{beginning}}",
        "doc_to_choice": "{{endings}}",
        "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (directory / "endings.yaml").write_text(json.dumps(task))  # JSON is YAML


def _teach(model: Any, tokens_T: torch.Tensor) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        starts = torch.randint(0, len(tokens_T) - 64, (8,))
        batch = torch.stack([tokens_T[start : start + 64] for start in starts])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()


def definition(night: Path, source: str) -> dict[str, Any]:
    text = f"file:{night}/text.txt"
    return {
        "name": "night",
        "on_new_checkpoint": {"source": source, "look_seconds": 1},
        "template": {
            "spec": {
                "calibration": {"source": text, "samples": 6, "sequence_length": 48},
                "prune": {
                    "method": {"kind": "wanda"},
                    "allocation": {"kind": "owl", "multiplier": 3, "spread": 0.05},
                    "pattern": {"kind": "unstructured", "sparsity": 0.3},
                },
                "evaluation": {
                    "perplexity": [{"source": text, "sequence_length": 64, "windows": 4, "bos": "none"}],
                    "tasks": {"tasks": ["endings"], "include": f"file:{night}/tasks"},
                },
            },
            "resources": {"workers": 1, "memory_per_worker": "1GiB"},
        },
        "gates": ["perplexity <= 2 * dense", "perplexity < 50", "endings >= dense - 0.3", "endings >= 0.6"],
        "alias": "nightly",
    }


def test_the_night(
    cloud_service: Service,
    second_api: Service,
    seaweedfs_server: S3Server,
    bucket: tuple[str, Store],
    night: Path,
    tmp_path: Path,
) -> None:
    source, incoming = bucket
    with _http(cloud_service.url, cloud_service) as first, _http(second_api.url, cloud_service) as second:
        answer = first.post("/schedules", json=definition(night, source))
        assert answer.status_code == 201, answer.text

        files = sorted((night / "good").iterdir(), key=lambda file: file.name.startswith("model-00002"))
        assert files[-1].name.startswith("model-00002"), "the last one is a shard that the index names"
        for file in files:
            incoming.put(f"step-100/{file.name}", [file.read_bytes()])
            if "model" in file.name and file is not files[-1]:
                schedule = looked_twice(second)
                assert _firings(second) == []
                assert all(one.state == "incomplete" for one in schedule.candidates), schedule.candidates

        promoted = settled(second, 1)[0]
        assert promoted.outcome == "promoted", (promoted.reason, promoted.gates)
        assert [verdict.passed for verdict in promoted.gates] == [True] * 4
        alias = first.get("/aliases/nightly").json()
        assert (alias["job"], alias["moved_by"]) == (promoted.job, "night")
        served = _published(cloud_service, seaweedfs_server, "nightly", tmp_path)

        for file in (night / "damaged").iterdir():
            incoming.put(f"step-200/{file.name}", [file.read_bytes()])
        held = settled(second, 2)[0]
        assert held.outcome == "held", (held.reason, held.gates)
        assert {verdict.gate for verdict in held.gates if not verdict.passed} >= {"perplexity < 50"}
        job = first.get(f"/jobs/{held.job}").json()
        assert job["status"] == "succeeded"
        assert job["labels"] == {"schedule": "night", "checkpoint": "step-200"}

        for file in files:
            incoming.put(f"step-100-again/{file.name}", [file.read_bytes()])
        schedule = looked_twice(second)
        assert {one.source.rsplit("/", 1)[-1]: one.state for one in schedule.candidates} == {
            "step-100": "known",
            "step-200": "known",
            "step-100-again": "known",
        }
        assert [one.job for one in _firings(second)] == [held.job, promoted.job]
        assert first.get("/aliases/nightly").json() == alias
        assert len(first.get("/jobs", params={"label": "schedule:night"}).json()["data"]) == 2

    weights = dict(AutoModelForCausalLM.from_pretrained(served).named_parameters())
    linears = [w for name, w in weights.items() if "proj" in name]
    zeros = sum(int((w == 0).sum()) for w in linears) / sum(w.numel() for w in linears)
    assert zeros == pytest.approx(0.3, abs=1e-3)


def _http(url: str, owner: Service) -> httpx.Client:
    headers = {"Authorization": f"Bearer {read_key(owner.state_dir)}"}
    return httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30)


def looked_twice(api: httpx.Client) -> ScheduleView:
    """The schedule after two looks that began after now."""
    start = int(time.time())
    first = _until(lambda: _schedule(api), lambda seen: (seen.looked_at or 0) > start)
    return _until(lambda: _schedule(api), lambda seen: (seen.looked_at or 0) > (first.looked_at or 0))


def settled(api: httpx.Client, count: int) -> list[FiringView]:
    """Firings, newest first, once there are `count` and all are decided."""
    return _until(
        lambda: _firings(api),
        lambda seen: len(seen) == count and all(one.decided_at is not None for one in seen),
    )


def _until(ask: Callable[[], Seen], enough: Callable[[Seen], bool]) -> Seen:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        seen = ask()
        if enough(seen):
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.3)


def _schedule(api: httpx.Client) -> ScheduleView:
    return ScheduleView.model_validate(api.get("/schedules/night").json())


def _firings(api: httpx.Client) -> list[FiringView]:
    return [FiringView.model_validate(one) for one in api.get("/schedules/night/firings").json()["data"]]


def _published(service: Service, server: S3Server, alias: str, directory: Path) -> Path:
    """What a server of models would fetch: the alias' pointer, and the files that the manifest names."""
    storage = open_store(service.environment["SECATEUR_STORAGE_URL"], server.options)
    pointer = json.loads(b"".join(storage.get(f"aliases/{alias}.json")))
    manifest = b"".join(storage.get(f"{pointer['prefix']}/manifest.json"))
    assert hashlib.sha256(manifest).hexdigest() == pointer["manifest"]
    for entry in json.loads(manifest)["files"]:
        content = b"".join(storage.get(f"{pointer['prefix']}/{entry['path']}"))
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        path = directory / entry["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return directory
