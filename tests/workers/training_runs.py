"""Training without Ray: the same loop in processes of its own, which communicate through gloo."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.allocations import Uniform
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.curve import Shard, TokensIndex
from pipeline.artifacts.refs import CheckpointRef, KeepRef, TokensRef
from pipeline.blocks.pruning import pruned_checkpoint, pruned_keep
from pipeline.canonical import canonical_json
from pipeline.checkpoint.writer import put_tensors
from pipeline.dag.stages.training import LearnMasks, Recover
from pipeline.errors import SecateurError
from pipeline.methods.magnitude import Magnitude
from pipeline.request.resources import TrainingResources
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.model import Dtype
from pipeline.spec.patterns import Pattern, Unstructured
from pipeline.spec.recovery import Recovery
from pipeline.storage import ContentStore
from tests.checkpoints import imported
from tests.models import VOCABULARY, Kind, tiny_checkpoint
from tests.sweeping import prune_in_process
from tests.workers.crews import together
from workers.context import Step
from workers.settings import WorkerSettings
from workers.training.work import TrainingResult, Work

LENGTH = 24
TRAINING, HELD_OUT = 40, 6


@dataclass
class Folder:
    """A TrainingRuntime that keeps training checkpoints in a directory. `dies_at`: rank and step; that worker
    kills itself before that step is saved, like a lost machine. `told`: the steps that a driver would
    receive."""

    directory: Path
    dies_at: tuple[int, int] | None = None
    is_preempted: bool = False
    told: list[Step] = field(default_factory=list)

    @contextmanager
    def restored(self) -> Iterator[Path | None]:
        """The latest complete checkpoint."""
        found = sorted(path for path in self.directory.glob("step-*") if (path / "state.json").is_file())
        yield found[-1] if found else None

    def save(self, directory: Path, *, step: int) -> None:
        """Copy this worker's part. Rank 0 copies the state last, after all parts."""
        rank = dist.get_rank()
        if self.dies_at == (rank, step):
            os.kill(os.getpid(), signal.SIGKILL)
        target = self.directory / f"step-{step:06d}"
        target.mkdir(parents=True, exist_ok=True)
        for file in directory.glob("*.safetensors"):
            shutil.copy(file, target / file.name)
        dist.barrier()
        if rank == 0:
            shutil.copy(directory / "state.json", target / "state.json")

    def preempted(self) -> bool:
        """True if the node is drained."""
        return self.is_preempted

    def tell(self, step: Step) -> None:
        """Keep the step."""
        self.told.append(step)


@dataclass(frozen=True)
class Prepared:
    """A pruned tiny model, and training sequences, in a store of their own."""

    settings: WorkerSettings
    content: ContentStore
    dense: CheckpointRef
    pruned: CheckpointRef
    keep: KeepRef
    tokens: TokensRef
    patterns: tuple[Pattern, ...]

    def work(
        self,
        recovery: dict[str, Any] | None = None,
        resources: dict[str, Any] | None = None,
        *,
        student: str = "pruned",
        key: str = "key",
    ) -> Work:
        """A training order; `recovery` and `resources` change the usual ones."""
        asked = Recovery.model_validate(
            {
                "text": {"source": "file:/x.txt", "sequence_length": LENGTH, "validation_sequences": 6},
                "steps": 6,
                "global_batch_size": 4,
                "learning_rate": {"peak": 2e-3, "warmup_steps": 2},
                "certify_every_steps": 1,
                "validate_every_steps": 3,
                **(recovery or {}),
            }
        )
        given = TrainingResources.model_validate({"save_every_steps": 2, **(resources or {})})
        dense = student == "dense"
        return Work(
            settings=self.settings,
            key=key,
            stage=Recover(recovery=asked, sparse=not dense or asked.keep.kind == "gradual"),
            resources=given,
            checkpoint=self.dense if dense else self.pruned,
            tokens=self.tokens,
            keep=None if dense else self.keep,
            prior=None,
            patterns=None if dense else self.patterns,
            teacher=self.dense if asked.needs_teacher else None,
            model_name="tiny",
            cuda=False,
        )

    def learning(
        self,
        training: dict[str, Any] | None = None,
        resources: dict[str, Any] | None = None,
        *,
        prior: bool = True,
        strength: float = 3,
        key: str = "masks",
    ) -> Work:
        """An order to learn masks on the dense weights, beginning with the masks of magnitude."""
        asked = MaskTraining.model_validate(
            {
                "text": {"source": "file:/x.txt", "sequence_length": LENGTH, "validation_sequences": 6},
                "steps": 6,
                "global_batch_size": 4,
                "learning_rate": {"peak": 2e-2, "warmup_steps": 2},
                "validate_every_steps": 3,
                "temperature": {"start": 1, "end": 0.1},
                **(training or {}),
            }
        )
        given = TrainingResources.model_validate({"save_every_steps": 2, **(resources or {})})
        return Work(
            settings=self.settings,
            key=key,
            stage=LearnMasks(training=asked, prior_strength=strength),
            resources=given,
            checkpoint=self.dense,
            tokens=self.tokens,
            keep=None,
            prior=self.keep if prior else None,
            patterns=self.patterns,
            teacher=None,
            model_name="tiny",
            cuda=False,
        )


def prepare(
    root: Path,
    kind: Kind = "llama",
    *,
    pattern: Pattern | None = None,
    dtype: Dtype = "float32",
    model: Path | None = None,
) -> Prepared:
    """Prune a tiny model by magnitude to half, and store random sequences to train on. `model`: another one
    than the usual of its kind."""
    settings = WorkerSettings.model_validate({"storage_url": f"file://{root}/storage"})
    pattern = pattern or Unstructured(sparsity=0.5)
    directory = model or tiny_checkpoint(kind, root / "model", dtype=dtype)
    content, dense = imported(directory, root / "storage")
    pruned = prune_in_process(content, dense, [], method=Magnitude(), allocation=Uniform(), pattern=pattern)
    return Prepared(
        settings=settings,
        content=content,
        dense=dense,
        pruned=pruned_checkpoint(content, dense, pruned.made),
        keep=pruned_keep(content, pruned.made),
        tokens=put_tokens(content),
        patterns=pruned.plan.blocks,
    )


def put_tokens(content: ContentStore) -> TokensRef:
    """Store sequences from which a model can learn: each token follows from the one before."""
    generator = torch.Generator().manual_seed(7)
    first = torch.randint(2, VOCABULARY, (TRAINING + HELD_OUT, 1), generator=generator)
    steps = torch.randint(1, 4, (TRAINING + HELD_OUT, LENGTH - 1), generator=generator).cumsum(1)
    rows = torch.cat([first, 2 + (first + steps) % (VOCABULARY - 2)], dim=1).to(torch.int32)
    shards = {
        "train-00000.safetensors": rows[:15],
        "train-00001.safetensors": rows[15:TRAINING],
        "validation.safetensors": rows[TRAINING:],
    }
    files = [put_tensors(content, path, {"tokens": tokens})[0] for path, tokens in shards.items()]
    index = TokensIndex(
        sequence_length=LENGTH,
        sequences=TRAINING,
        validation_sequences=HELD_OUT,
        shards=tuple(
            Shard(path=path, sequences=len(tokens))
            for path, tokens in shards.items()
            if path.startswith("train")
        ),
        read_tokens=rows.numel(),
        text_digest="0" * 64,
    )
    written = FileRef(path="tokens.json", blob=content.put_bytes(canonical_json(index)))
    return TokensRef(files=tuple(sorted([*files, written], key=lambda file: file.path)))


@dataclass(frozen=True)
class Call:
    """One training. `plant`: a function that each worker's process calls before it."""

    work: Work
    folder: Folder
    plant: Callable[[], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call: a result or the error, and the reported steps."""

    result: TrainingResult | None
    error: SecateurError | None
    told: list[Step]


def run_all(directory: Path, calls: Sequence[Call], *, workers: int) -> list[Outcome]:
    """Run several trainings one after the other in the same `workers` processes."""
    directory.mkdir(parents=True, exist_ok=True)
    together(_crew, workers, directory, list(calls), workers=workers)
    outcomes: list[Outcome] = torch.load(directory / "outcomes.pt", weights_only=False)
    return outcomes


def run_one(directory: Path, work: Work, *, workers: int = 1, **folder: Any) -> Outcome:
    """Run one training, whose checkpoints stay in `directory`."""
    return run_all(directory, [Call(work, Folder(directory, **folder))], workers=workers)[0]


def _crew(rank: int, port: int, workers: int, directory: Path, calls: list[Call]) -> None:
    os.environ |= {
        "DS_ACCELERATOR": "cpu",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    from workers.training.engine import prepare_process
    from workers.training.start import start

    prepare_process(cuda=False)
    outcomes = []
    for call in calls:
        result, error = None, None
        if call.plant is not None:
            call.plant()
        try:
            result = start(call.work, call.folder)
        except SecateurError as raised:
            error = raised
        outcomes.append(Outcome(result, error, call.folder.told))
    if rank == 0:
        torch.save(outcomes, directory / "outcomes.pt")
    dist.barrier()  # no process leaves while others still communicate
    dist.destroy_process_group()
