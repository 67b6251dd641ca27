"""Jobs as their drivers and the dispatcher leave them, without a Ray: what the page has to show."""

import math
import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from api.service.jobs import attempts, leases
from api.service.jobs.logs import log_key
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import ArtifactRef, ManifestRef, ReportRef
from pipeline.dag.nodes import Dag
from pipeline.dag.plan import plan
from pipeline.evaluation.task_results import TaskContract, TaskEvaluation, TaskMetric, TaskResult
from pipeline.job.events import (
    AttemptFailed,
    AttemptStarted,
    FailureReason,
    Message,
    NodePlanned,
    StageFinished,
    StageProgress,
    StageStarted,
    TrainingStep,
    TrainingValidated,
)
from pipeline.job.ledger import JobResult, Measured, NodeResult
from pipeline.report.data import ReportData, report_json
from pipeline.report.page import render_html
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.eval_tasks import EvalTasks
from tests.api.attempts import LEASE, FakeDriver, started_job
from tests.api.conftest import RunningApi
from tests.pipeline.report.made_learned import (
    learned_report,
    learned_spec,
    made_mask_step,
    made_training,
    made_validation,
)
from tests.pipeline.report.made_recovery import made_curve, made_step, recovered_report, recovered_spec
from tests.pipeline.report.made_report import DENSE, PRUNED, made_report, made_spec

KEY = "0" * 64
BLOCKS = 30
TASKS = {"arc_easy": (0.6124, 0.4310), "sciq": (0.8410, 0.8260)}
CONFIG = b'{"model_type": "llama"}'
LOG = "".join(f"2025-11-22 01:{n // 60:02d}:{n % 60:02d} INFO block {n}: done\n" for n in range(90))


def spec(*, model: str = "file:/models/SmolLM2-135M") -> PruneSpec:
    """Wanda under OWL with a text and two tasks."""
    plain = made_spec(model=model)
    tasks = EvalTasks.model_validate({"tasks": list(TASKS), "limit": 400})
    return plain.model_copy(update={"evaluation": plain.evaluation.model_copy(update={"tasks": tasks})})


def request(**beside: Any) -> dict[str, Any]:
    """What started_job takes beside the model."""
    return {"spec": spec().model_dump(mode="json"), **beside}


@dataclass
class Play:
    """A job whose driver is ours: it reports through the API, as a real one does."""

    api: RunningApi
    driver: FakeDriver
    results: dict[str, NodeResult] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Of the job."""
        return self.driver.live.job

    @cached_property
    def dag(self) -> Dag:
        """Its stages."""
        return plan(self.driver.asked.request.spec, self.driver.asked.pins)

    def begin(self) -> None:
        """The driver has planned."""
        nodes = tuple(
            NodePlanned(node=n.id, stage=n.stage.kind, needs=tuple(sorted(n.needs))) for n in self.dag.nodes
        )
        self.say(AttemptStarted(nodes=nodes))

    def say(self, *bodies: Any) -> None:
        """Report events."""
        answer = self.driver.say(*bodies)
        assert answer.status_code == 200, answer.text

    def progress(
        self, node: str, done: int, total: int, unit: str = "block", note: str | None = None
    ) -> None:
        """A stage has come so far; the first time it starts."""
        told: list[Any] = [StageProgress(node=node, done=done, total=total, unit=unit, note=note)]
        self.say(*([StageStarted(node=node, key=KEY)] if done == 0 else []), *told)

    def trained(self, first: int, last: int, *, started: int = 1) -> None:
        """Steps of the recovery and their validations, as its workers tell them."""
        recovery = self.driver.asked.request.spec.recovery
        assert recovery is not None
        noise = random.Random(first)
        held_out = {one.step: one for one in made_curve(recovery).validations}
        told: list[Any] = [TrainingValidated(node="recover", validation=held_out[0])] if first == 1 else []
        for step in range(first, last + 1):
            record = made_step(step, recovery, noise).model_copy(update={"started": started})
            told.append(TrainingStep(node="recover", total_steps=recovery.total_steps, record=record))
            if step in held_out:
                told.append(TrainingValidated(node="recover", validation=held_out[step]))
        self.say(*told)

    def learned(self, first: int, last: int) -> None:
        """Steps of mask learning and their validations."""
        asked, noise = made_training(), random.Random(first)
        told: list[Any] = [TrainingValidated(node="prune", validation=made_validation(0, asked))]
        for step in range(first, last + 1):
            record = made_mask_step(step, asked, noise)
            told.append(TrainingStep(node="prune", total_steps=asked.total_steps, record=record))
            if step % asked.validate_every_steps == 0:
                told.append(TrainingValidated(node="prune", validation=made_validation(step, asked)))
        self.say(*told)

    def finish(self, *nodes: str, cached: bool = False) -> None:
        """Stages are done."""
        for node in nodes:
            result = NodeResult(
                node=node,
                key=KEY,
                cached=cached,
                artifacts=self._made(node),
                measured=Measured(
                    seconds=12.5, peak_memory_bytes=310_000_000, details={"idle_memory_bytes": 2.0**28}
                ),
            )
            self.results[node] = result
            self.say(StageFinished(result=result))

    def succeed(self) -> None:
        """Whatever is left is done, too."""
        self.finish(*(node.id for node in self.dag.nodes if node.id not in self.results))
        self.store_log(LOG)
        result = JobResult(nodes=tuple(self.results.values()))
        attempts.succeed(self.api.services.database, LEASE, self.driver.live, result)

    def fail(self, message: str, *, node: str = "prune") -> None:
        """For good."""
        reason = FailureReason(
            code="numerical_error",
            message=message,
            param="spec.prune.method.damping",
            node=node,
            retryable=False,
            blame="user",
            log=f"/jobs/{self.id}/logs?attempt=1",
        )
        self.store_log(LOG)
        self.say(AttemptFailed(reason=reason))
        live = leases.claim_live(self.api.services.database, LEASE)
        mine = next(one for one in live if one.job == self.id)
        attempts.fail(self.api.services.database, LEASE, mine, reason, limit=1)

    def store_log(self, text: str) -> None:
        """The driver's output, which Ray would have."""
        services = self.api.services
        services.content.store.put(log_key(self.id, self.driver.live.number), [text.encode()])
        attempts.note_log_stored(services.database, self.driver.live)

    def _made(self, node: str) -> dict[str, ArtifactRef]:
        put = self.api.services.content.put_bytes
        if node == "verify":
            held = {"config.json": CONFIG, "model.safetensors": b"weights" * 5000, "manifest.json": b"{}"}
            files = tuple(FileRef(path=path, blob=put(content)) for path, content in held.items())
            return {"manifest": ManifestRef(files=files, prefix="published/SmolLM2-135M-0123456789ab/")}
        if node == "report":
            spec = self.driver.asked.request.spec
            data = _data(spec)
            pages = {"report.html": render_html(data).encode(), "report.json": report_json(data)}
            files = tuple(FileRef(path=path, blob=put(content)) for path, content in pages.items())
            return {"report": ReportRef(files=files)}
        return {}


def play(api: RunningApi, **beside: Any) -> Play:
    """A job whose driver has not said anything yet."""
    return Play(api, started_job(api, **request(**beside)))


def pruning(api: RunningApi, *, done: int = 12, **beside: Any) -> Play:
    """A job in the middle of its blocks."""
    job = play(api, **beside)
    job.begin()
    job.finish("import_model", "check_tasks", "calibrate", cached=True)
    job.progress("measure_statistics", 0, BLOCKS)
    job.progress("measure_statistics", BLOCKS, BLOCKS)
    job.finish("measure_statistics", "measure_blocks", "allocate")
    job.say(Message(level="warning", node="allocate", text="blocks 3 and 4 have equal outlier ratios"))
    job.progress("prune", 0, BLOCKS)
    job.progress("evaluate:dense", 0, 16, "window")
    job.progress("evaluate:dense", 7, 16, "window")
    job.progress("prune", done, BLOCKS, note=f"block {done - 1}: sparsity 0.52")
    return job


def training(api: RunningApi, *, steps: int, **beside: Any) -> Play:
    """A job in the middle of its recovery, which has lost a worker once."""
    asked = recovered_spec().model_dump(mode="json")
    job = Play(api, started_job(api, spec=asked, **beside))
    job.begin()
    job.finish(
        "import_model",
        "prepare_text",
        "calibrate",
        "measure_statistics",
        "measure_blocks",
        "allocate",
        "prune",
    )
    job.say(StageStarted(node="recover", key=KEY))
    job.trained(1, steps // 2)
    job.trained(steps // 2 - 9, steps, started=2)
    return job


def learning(api: RunningApi, *, steps: int, **beside: Any) -> Play:
    """A job in the middle of learning its masks, and with recovery to come."""
    asked = learned_spec().model_copy(update={"recovery": recovered_spec().recovery}).model_dump(mode="json")
    job = Play(api, started_job(api, spec=asked, **beside))
    job.begin()
    before = ("import_model", "prepare_text:masks", "prepare_text", "calibrate", "allocate", "prune:prior")
    job.finish(*before)
    job.say(StageStarted(node="prune", key=KEY))
    job.learned(1, steps)
    return job


def succeeded(api: RunningApi, **beside: Any) -> Play:
    """A job with all its figures."""
    job = pruning(api, **beside)
    job.progress("prune", BLOCKS, BLOCKS)
    job.progress("evaluate:dense", 16, 16, "window")
    job.succeed()
    return job


def _data(spec: PruneSpec) -> ReportData:
    data = recovered_report(blocks=BLOCKS, spec=spec) if spec.recovery is not None else report(spec)
    return learned_report(blocks=BLOCKS, spec=spec, data=data) if spec.learns_masks else data


def report(spec: PruneSpec) -> ReportData:
    """Figures of that spec, tasks included."""
    plain = made_report(blocks=BLOCKS, spec=spec)
    named = {"dense": (DENSE, 0), "pruned": (PRUNED, 1)}
    tasks = {f"{name}_tasks": tuple(_tasks(digest, i)) for name, (digest, i) in named.items()}
    return plain.model_copy(update={**tasks, "warnings": ("blocks 3 and 4 have equal outlier ratios",)})


def _tasks(checkpoint: str, i: int) -> list[TaskEvaluation]:
    return [
        TaskEvaluation(
            checkpoint_digest=checkpoint,
            task=name,
            results=(
                TaskResult(
                    task=name,
                    contract=TaskContract(
                        harness_version="0.4.13",
                        task_version="1.0",
                        task_digest=KEY,
                        dataset_revision=None,
                        num_fewshot=0,
                        limit=400,
                        samples=400,
                        batch_size=8,
                        seed=1234,
                        dtype="float32",
                        max_length=2048,
                        tokenizer_digest=KEY,
                    ),
                    metrics=tuple(
                        TaskMetric(
                            metric=metric,
                            filter="none",
                            value=values[i] - less,
                            stderr=math.sqrt(values[i] * (1 - values[i]) / 400),
                            higher_is_better=True,
                        )
                        for metric, less in (("acc", 0.05), ("acc_norm", 0.0))
                    ),
                ),
            ),
        )
        for name, values in TASKS.items()
    ]
