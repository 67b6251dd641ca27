"""Which sequences a worker takes in a step, their tokens, and how a text becomes them."""

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.curve import Shard, TokensIndex
from pipeline.artifacts.refs import TokensRef
from pipeline.canonical import canonical_json
from pipeline.checkpoint.writer import put_tensors
from pipeline.dag.plan import plan
from pipeline.errors import CorruptObject, TextTooShort
from pipeline.job.ledger import WorkOrder
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.resolve import resolve
from pipeline.storage import ContentStore, LocalStore
from tests.models import tiny_checkpoint, tiny_documents, tiny_text
from tests.workers.stage_runs import StageRuns, of_kind
from workers.context import Progress
from workers.settings import WorkerSettings
from workers.training.data import HELD_SHARDS, TrainingData, checksum, share_of

LENGTH = 8


@given(
    step=st.integers(0, 1000),
    workers=st.integers(1, 9),
    global_batch_size=st.integers(1, 40),
    micro_batch_size=st.integers(1, 12),
)
def test_every_sequence_of_a_step_is_taken_once(
    step: int, workers: int, global_batch_size: int, micro_batch_size: int
) -> None:
    shares = [
        share_of(
            step,
            rank=rank,
            workers=workers,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
        )
        for rank in range(workers)
    ]
    batches = [batch for share in shares for batch in share]
    real = [index for batch in batches if batch.weight for index in batch.indices]
    first = step * global_batch_size
    assert real == list(range(first, first + global_batch_size))
    assert sum(batch.weight for batch in batches) == pytest.approx(1)
    assert all(1 <= len(batch.indices) <= micro_batch_size for batch in batches)
    for batch in batches:
        assert batch.weight in (0, len(batch.indices) / global_batch_size)
    assert len({len(share) for share in shares}) == 1  # collectives meet equally often
    loads = [sum(len(batch.indices) for batch in share if batch.weight) for share in shares]
    assert max(loads) - min(loads) <= 1


@given(
    rows=st.lists(
        st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3), min_size=1, max_size=8, unique_by=tuple
    ),
    cut=st.integers(0, 8),
)
def test_checksums_add_up_however_sequences_are_shared_out(rows: list[list[int]], cut: int) -> None:
    tokens_NL = torch.tensor(rows)
    shuffled = tokens_NL[torch.randperm(len(rows), generator=torch.Generator().manual_seed(cut))]
    parts = [part for part in (shuffled[:cut], shuffled[cut:]) if len(part)]
    assert sum(map(checksum, parts)) % 2**32 == checksum(tokens_NL)
    assert checksum(tokens_NL.to(torch.int32)) == checksum(tokens_NL)
    changed = tokens_NL.clone()
    changed[0, 1] ^= 1
    assert checksum(changed) != checksum(tokens_NL)


def stored(content: ContentStore, sizes: list[int]) -> TokensRef:
    """Shards whose sequences carry their number, and two held-out ones."""
    files, start = [], 0
    for i, size in enumerate(sizes):
        rows = torch.arange(start, start + size, dtype=torch.int32)[:, None].expand(size, LENGTH)
        files.append(put_tensors(content, f"train-{i:05d}.safetensors", {"tokens": rows.contiguous()})[0])
        start += size
    held_out = torch.full((2, LENGTH), 7, dtype=torch.int32)
    files.append(put_tensors(content, "validation.safetensors", {"tokens": held_out})[0])
    index = TokensIndex(
        sequence_length=LENGTH,
        sequences=start,
        validation_sequences=2,
        shards=tuple(
            Shard(path=f"train-{i:05d}.safetensors", sequences=size) for i, size in enumerate(sizes)
        ),
        read_tokens=0,
        text_digest="",
    )
    files.append(FileRef(path="tokens.json", blob=content.put_bytes(canonical_json(index))))
    return TokensRef(files=tuple(sorted(files, key=lambda file: file.path)))


class TestTrainingData:
    def test_epochs_hold_every_sequence_and_shards_come_and_go(self, tmp_path: Path) -> None:
        content = ContentStore(LocalStore(tmp_path))
        sizes = [5, 3, 4, 6, 2, 5]
        assert len(sizes) > HELD_SHARDS
        tokens = stored(content, sizes)
        data = TrainingData(content, tokens, seed=2)
        total = sum(sizes)
        epochs = [data.sequences(range(epoch * total, (epoch + 1) * total)) for epoch in range(3)]
        assert epochs[0].dtype == torch.int64
        assert epochs[0][:, 0].tolist() == list(range(total))
        assert all(sorted(epoch[:, 0].tolist()) == list(range(total)) for epoch in epochs)
        assert len({tuple(epoch[:, 0].tolist()) for epoch in epochs}) == 3
        # whoever asks for what, in any order: the same sequences
        order = list(range(3 * total))
        random.Random(0).shuffle(order)
        fresh = TrainingData(content, tokens, seed=2)
        assert torch.equal(fresh.sequences(order), torch.cat(epochs)[torch.tensor(order)])
        assert data.validation().tolist() == [[7] * LENGTH] * 2

    def test_a_damaged_shard_is_not_trained_on(self, tmp_path: Path) -> None:
        content = ContentStore(LocalStore(tmp_path))
        tokens = stored(content, [4, 4])
        digest = tokens.file("train-00001.safetensors").digest
        damaged = next(path for path in tmp_path.rglob(f"*{digest.removeprefix('sha256:')[2:]}*"))
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
        data = TrainingData(content, tokens, seed=0)
        assert data.sequences(range(4)).shape == (4, LENGTH)
        with pytest.raises(CorruptObject):
            data.sequences([4])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("model"))


def recovery_job(
    root: Path, model: Path, *, steps: int, objective: dict[str, Any] | None = None, **text: Any
) -> StageRuns:
    """A recovery job on `tiny_documents`."""
    settings = WorkerSettings.model_validate(
        {"storage_url": f"file://{root}/storage", "allowed_roots": (Path("/"),)}
    )
    given = {"source": f"file:{tiny_text(root)}", "sequence_length": 32, "validation_sequences": 4} | text
    recovery = {
        "text": given,
        "steps": steps,
        "global_batch_size": 4,
        "learning_rate": {"warmup_steps": 0},
        "objective": objective or {"kind": "language_modelling"},
    }
    spec = {"model": {"source": f"file:{model}"}, "recovery": recovery}
    request = JobRequest.model_validate({"spec": spec})
    pins = resolve(request.spec, settings.access())
    order = WorkOrder(job="job-x", attempt=1, request=request, pins=pins)
    return StageRuns(settings=settings, order=order, dag=plan(request.spec, pins))


def prepared(root: Path, model: Path, *, steps: int, **text: Any) -> StageRuns:
    """The same with its text prepared."""
    return recovery_job(root, model, steps=steps, **text).run("import_model", "prepare_text")


def test_a_teacher_of_its_own_is_the_one_that_is_imported(tmp_path: Path, model: Path) -> None:
    teacher = tiny_checkpoint("llama", tmp_path / "teacher")
    weights = load_file(teacher / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, teacher / "model.safetensors")
    objective = {"kind": "distillation", "teacher": {"source": f"file:{teacher}"}}
    runs = recovery_job(tmp_path, model, steps=10, objective=objective).run("import_model", "import_teacher")
    for node, source in (("import_model", model), ("import_teacher", teacher)):
        file = runs.made[node]["checkpoint"].file("model.safetensors")
        expected = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
        assert file.digest.removeprefix("sha256:") == expected, node


class TestPrepareText:
    @pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet"])
    def test_documents_become_held_out_and_training_sequences(
        self, tmp_path: Path, model: Path, ending: str
    ) -> None:
        tiny_text(tmp_path)
        runs = prepared(tmp_path, model, steps=10, source=f"file:{tmp_path}/text.{ending}")
        tokens = runs.made["prepare_text"]["tokens"]
        assert isinstance(tokens, TokensRef)
        data = TrainingData(runs.settings.content(), tokens, seed=0)
        tokenizer = AutoTokenizer.from_pretrained(model)
        row = []
        for document in tiny_documents():
            row += [*tokenizer(document, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        windows = [tuple(row[i : i + 32]) for i in range(0, len(row) - 31, 32)]
        assert [tuple(sequence) for sequence in data.validation().tolist()] == windows[:4]
        trained = [tuple(sequence) for sequence in data.sequences(range(40)).tolist()]
        assert sorted(trained) == sorted(windows[4:44])
        assert trained != windows[4:44]
        assert data.index.sequences == 40
        assert data.index.read_tokens < len(row)  # the last documents were not read
        assert [step.done for step in of_kind(runs.said, Progress)][-1] == 40

    def test_a_short_text_is_gone_through_again_or_refused(self, tmp_path: Path, model: Path) -> None:
        runs = prepared(tmp_path / "again", model, steps=50, epochs=10)
        tokens = runs.made["prepare_text"]["tokens"]
        assert isinstance(tokens, TokensRef)
        data = TrainingData(runs.settings.content(), tokens, seed=0)
        assert 20 < data.index.sequences < 200
        with pytest.raises(TextTooShort, match="use a longer text") as caught:
            prepared(tmp_path / "refused", model, steps=50, epochs=1)
        assert caught.value.param == "spec.recovery.text.epochs"
