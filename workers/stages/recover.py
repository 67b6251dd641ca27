"""The stage that trains weights or masks: the driver's side of a Ray Train run."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.artifacts.refs import KeepRef, TokensRef
from pipeline.dag.stages.training import LearnMasks, Recover
from pipeline.errors import WorkerLost
from pipeline.job.ledger import progress_key
from pipeline.spec.patterns import Pattern
from pipeline.spec.sparsity_plan import SparsityPlan
from workers.context import Made, Note, StageContext, Step, Steps, Waited
from workers.failures import error_for, reason_for
from workers.training.final import FAILURE, Failure
from workers.training.mailbox import Mailbox
from workers.training.tracked import tracked
from workers.training.under_ray import RESULT, forget_training, trainer_for
from workers.training.work import TrainingResult, Work
from workers.turns import Places
from workers.waiting import check_possible, gave_up, why_waiting

LISTEN_SECONDS = 1.0
PATIENCE_SECONDS = 15.0  # waiting time before a note says so


def run(stage: Recover | LearnMasks, context: StageContext, keeper: Places) -> Steps:
    """Give all the job's places to the trainer, and pass on the steps that its workers report."""
    content = context.content
    work = _work(stage, context)
    result = content.find_model(progress_key(context.key, RESULT), TrainingResult)
    if result is None:
        content.store.delete(progress_key(context.key, FAILURE))
        asked_at = time.monotonic()
        with keeper.alone():
            yield from tracked(_trained(work, context, asked_at=asked_at), context)
        result = content.get_model(progress_key(context.key, RESULT), TrainingResult)
    forget_training(work, context.settings)
    yield Made(
        result.artifacts,
        peak_memory_bytes=result.peak_memory_bytes,
        details={"tokens": float(result.tokens), "training_seconds": result.seconds},
    )


def _work(stage: Recover | LearnMasks, context: StageContext) -> Work:
    tokens, keep, prior = (context.inputs.get(name) for name in ("tokens", "keep", "prior"))
    assert isinstance(tokens, TokensRef)
    assert keep is None or isinstance(keep, KeepRef)
    assert prior is None or isinstance(prior, KeepRef)
    resources = context.order.request.resources
    return Work(
        settings=context.settings,
        key=context.key,
        stage=stage,
        resources=resources.recovery,
        checkpoint=context.checkpoint(),
        tokens=tokens,
        keep=keep,
        prior=prior,
        patterns=_patterns(context),
        teacher=context.checkpoint("teacher") if "teacher" in context.inputs else None,
        model_name=context.order.request.spec.model.source,
        cuda=resources.of("recovery").gpus_per_worker > 0,
    )


def _patterns(context: StageContext) -> tuple[Pattern, ...] | None:
    plan = context.find("plan", SparsityPlan)
    return None if plan is None else plan.blocks


def _trained(work: Work, context: StageContext, *, asked_at: float) -> Iterator[Step]:
    """Run the trainer in a thread, and yield the steps from its mailbox."""
    resources = context.order.request.resources
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    listening: Any = Mailbox  # Ray types its decorator as the plain class
    mailbox = listening.options(scheduling_strategy=here).remote()  # it is not lost with a worker's node
    trainer = trainer_for(work, resources, mailbox=mailbox, settings=context.settings)
    failed: list[BaseException] = []

    def target() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=target, name="trainer", daemon=True)
    thread.start()
    share = resources.of("recovery")
    check_possible(share, workers=resources.recovery.min_workers)
    begun, noted = False, False
    while True:
        alive = thread.is_alive()
        letters: list[Step] = ray.get(mailbox.take.remote(LISTEN_SECONDS if alive else 0))
        waited = time.monotonic() - asked_at
        if letters and not begun:
            begun = True
            yield Waited(waited)
        yield from letters
        if not alive and not letters:
            break
        if not begun and not noted and waited > PATIENCE_SECONDS:
            noted = True
            yield Note(f"training: {why_waiting(share)}")
        if not begun and waited > share.placement_timeout_seconds:
            raise gave_up(share)
    failure = context.content.find_model(progress_key(context.key, FAILURE), Failure)
    if failure is not None:
        raise error_for(failure.reason)
    if failed:
        raise _worker_lost(failed[0]) from failed[0]


def _worker_lost(error: BaseException) -> WorkerLost:
    """A WorkerLost with the reason of the failed worker of lowest rank, if Ray Train reports one."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        reason = reason_for(error.worker_failures[min(error.worker_failures)], node=None)
        return WorkerLost(f"training lost its workers too often, at last: {reason.message}")
    return WorkerLost(f"training ended: {error}")
