"""One attempt at a job: plan the DAG, then loop {choose -> look up -> run -> store} until all is done."""

import logging
import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime

from pipeline.artifacts.curve import StepRecord, Validation
from pipeline.dag.next_actions import MAX_STAGE_TRIES, decide, next_actions
from pipeline.dag.nodes import Dag, Node, node_key, resolve_inputs
from pipeline.dag.plan import plan_of
from pipeline.errors import InvalidRequest, MachineLeaves
from pipeline.job.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    FailureReason,
    Message,
    NodePlanned,
    StageFinished,
    StageProgress,
    StageRetried,
    StageStarted,
    TrainingStep,
    TrainingValidated,
)
from pipeline.job.ledger import (
    JobResult,
    Measured,
    NodeResult,
    StageResult,
    WorkOrder,
    find_result,
    job_result_key,
    stage_result_key,
)
from pipeline.planning.micro_batch import settled
from pipeline.storage.content import ContentStore
from workers.context import Made, Note, Progress, StageContext, Trained, Validated, Waited
from workers.failures import reason_for
from workers.places import PLACES, on_gang, on_worker, places_needed
from workers.reporter import Reporter
from workers.settings import WorkerSettings
from workers.site import Site
from workers.sizes import check_sizes

log = logging.getLogger(__name__)


class AttemptEnded(Exception):
    """The attempt cannot continue; the reason has been reported."""

    def __init__(self, reason: FailureReason) -> None:
        super().__init__(reason.message)
        self.reason = reason


def run_job(order: WorkOrder, settings: WorkerSettings, reporter: Reporter, site: Site) -> JobResult:
    """Run all stages that the order asks for. Raises AttemptEnded after reporting why."""
    chosen = settled(order.request, order.pins)
    order = order.model_copy(update={"request": chosen.request})
    dag = plan_of(order.request, order.pins)
    planned = tuple(
        NodePlanned(node=n.id, stage=n.stage.kind, needs=tuple(sorted(n.needs))) for n in dag.nodes
    )
    reporter.emit(AttemptStarted(nodes=planned))
    for note in order.pins.facts.notes:
        reporter.emit(Message(level="warning", text=note))
    if chosen.note is not None:
        reporter.emit(Message(level="info", text=chosen.note))
    attempt = _Attempt(order, settings, reporter, site)
    try:
        check_sizes(order)
        results = _run_all(dag, attempt, reporter, site)
    except InvalidRequest as error:
        reason = reason_for(error, node=None)
        reporter.emit(AttemptFailed(reason=reason))
        raise AttemptEnded(reason) from error
    except AttemptEnded as end:
        reporter.emit(AttemptFailed(reason=end.reason))
        raise
    result = JobResult(nodes=tuple(results[node.id] for node in dag.nodes))
    settings.content().put_model(job_result_key(order.job), result)
    reporter.emit(AttemptFinished())
    return result


def _run_all(dag: Dag, attempt: "_Attempt", reporter: Reporter, site: Site) -> dict[str, NodeResult]:
    results: dict[str, NodeResult] = {}
    running: dict[Future[NodeResult], Node] = {}
    site.prepare([node.stage for node in dag.nodes])
    pool = ThreadPoolExecutor(max_workers=site.threads or len(dag.nodes), thread_name_prefix="stage")
    try:
        while len(results) < len(dag.nodes):
            started = {node.id for node in running.values()}
            ready = next_actions(dag, done=results.keys(), started=started)
            ahead = [node for node in dag.nodes if node.id not in results]
            for node in startable(ready, running.values(), ahead=ahead, workers=site.workers):
                earlier = {one.id: results[one.id] for one in dag.nodes if one.id in results}
                running[pool.submit(attempt.run_node, node, earlier)] = node
            finished, _ = wait(running, timeout=2, return_when=FIRST_COMPLETED)
            if reporter.revoked:
                message = "the API has ended this attempt"
                raise AttemptEnded(
                    FailureReason(code="attempt_revoked", message=message, retryable=False, blame="machine")
                )
            for future in finished:
                node = running.pop(future)
                error = future.exception()
                if error is not None:
                    log.error("stage %s failed", node.id, exc_info=error)
                    raise AttemptEnded(attempt.reason(error, node)) from error
                results[node.id] = future.result()
    finally:
        attempt.stop()
        # A driver on a cluster ends its process; here, a stage must not go on in storage that is deleted.
        pool.shutdown(wait=site.threads is not None, cancel_futures=True)
    return results


def startable(
    ready: Sequence[Node], running: Collection[Node], *, ahead: Collection[Node], workers: int
) -> list[Node]:
    """Choose the nodes that start now among `ready`, whose inputs are made. `ahead`: all unfinished nodes.

    A job never holds more places than it declared. The gang may hold every CPU that there is, so tasks that
    need one go first, and the gang's stages wait until they are done. Stages in the place of a single worker
    come last, at most `workers` at a time: the gang has all places until its last stage is done. Those whose
    artifacts the gang's stages need are an exception: they start once the gang is idle, and it waits for
    them.
    """
    needed = _needed_by_gang(ahead)
    first = any(on_worker(node.stage) and node.id in needed for node in (*ready, *running))
    idle = not any(on_gang(node.stage) for node in running)
    needy = any(places_needed(node.stage) for node in (*ready, *running))
    gang = any(on_gang(node.stage) for node in ahead)
    room = 0 if needy or gang else workers - sum(on_worker(node.stage) for node in running)
    chosen = []
    for node in ready:
        if on_worker(node.stage) and node.id in needed:
            if idle and not needy:
                chosen.append(node)
        elif on_worker(node.stage):
            if room > 0:
                chosen.append(node)
            room -= 1
        elif not ((needy or first) and on_gang(node.stage)):
            chosen.append(node)
    return chosen


def _needed_by_gang(ahead: Collection[Node]) -> frozenset[str]:
    """The nodes that must be done before some stage of the gang. `ahead`: unfinished nodes, in plan order."""
    needed: set[str] = set()
    for node in reversed([*ahead]):
        if on_gang(node.stage) or node.id in needed:
            needed |= node.needs
    return frozenset(needed)


class _StoppedError(Exception):
    """Another stage has failed, so that nobody needs this one any more."""


class _Attempt:
    """The order, settings, reporter and site, which all nodes of the attempt share."""

    def __init__(self, order: WorkOrder, settings: WorkerSettings, reporter: Reporter, site: Site) -> None:
        self._order = order
        self._settings = settings
        self._reporter = reporter
        self._site = site
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Have the stages that still run end at their next step."""
        self._stopped.set()

    def run_node(self, node: Node, earlier: Mapping[str, NodeResult]) -> NodeResult:
        """Find the node's result in storage or make it, trying again after retryable errors."""
        made = {node_id: result.artifacts for node_id, result in earlier.items()}
        inputs = resolve_inputs(node, made)
        key = node_key(node, made, salt=self._order.salt)
        assert inputs is not None, "next_actions starts a node when its inputs are made"
        assert key is not None
        content = self._settings.content()
        stored = find_result(content, key) if node.stage.reusable else None
        if stored is not None:
            return self._finished(node, stored, cached=True)
        self._reporter.emit(StageStarted(node=node.id, key=key))
        tries = 0
        while True:
            self._go_on()
            tries += 1
            context = StageContext(
                node=node.id,
                key=key,
                order=self._order,
                inputs=inputs,
                earlier=tuple(earlier.values()),
                settings=self._settings,
                tries=tries,
            )
            try:
                return self._finished(node, self._make(node, context, content), cached=False)
            except MachineLeaves as error:
                tries -= 1  # it was announced, and all that was done is stored
                log.warning("stage %s: %s", node.id, error.message)
                self._reporter.emit(StageRetried(node=node.id, reason=self.reason(error, node)))
            except Exception as error:
                reason = self.reason(error, node)
                decision = decide(reason, tries=tries, limit=MAX_STAGE_TRIES)
                if decision.action == "fail":
                    raise
                log.warning("stage %s: %s; %s", node.id, reason.message, decision.why)
                self._reporter.emit(StageRetried(node=node.id, reason=reason))
                self._stopped.wait(decision.delay_seconds)

    def reason(self, error: BaseException, node: Node) -> FailureReason:
        """The reason of a failed node, with the workers that it had."""
        part = PLACES[node.stage.kind].part
        share = None if part is None else self._order.request.resources.of(part)
        return reason_for(error, node=node.id, stage=node.stage.kind, share=share)

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError

    def _make(self, node: Node, context: StageContext, content: ContentStore) -> StageResult:
        started = time.monotonic()
        made: Made | None = None
        waited = 0.0
        for step in self._site.launch(node.stage, context):
            self._go_on()
            match step:
                case Progress(done, total, note):
                    self._progress(node, done, total, note)
                case Trained(total_steps, record):
                    self._trained(node, total_steps, record)
                case Validated(validation):
                    self._validated(node, validation)
                case Note(text, level):
                    self._reporter.emit(Message(level=level, node=node.id, text=text))
                case Waited(seconds):
                    waited += seconds
                case Made():
                    made = step
        assert made is not None, f"stage {node.stage.kind} ended without a result"
        measured = Measured(
            seconds=time.monotonic() - started - waited,
            peak_memory_bytes=made.peak_memory_bytes,
            details={"waited_seconds": waited, **made.details},
            device=made.device,
        )
        result = StageResult(
            kind=node.stage.kind,
            version=node.stage.version,
            key=context.key,
            artifacts=dict(made.artifacts),
            measured=measured,
            made_at=datetime.now(UTC),
        )
        content.put_model(stage_result_key(context.key), result)
        return result

    def _progress(self, node: Node, done: float, total: float, note: str | None) -> None:
        unit = node.stage.unit
        log.info("stage %s: %g of %g %s %s", node.id, done, total, unit, note or "")
        self._reporter.emit(StageProgress(node=node.id, done=done, total=total, unit=unit, note=note))
        self._site.metrics.progressed(node.id, done=done, total=total)

    def _trained(self, node: Node, total_steps: int, record: StepRecord) -> None:
        self._reporter.emit(TrainingStep(node=node.id, total_steps=total_steps, record=record))
        self._site.metrics.trained(node.id, record)

    def _validated(self, node: Node, validation: Validation) -> None:
        log.info("stage %s: perplexity %.3f after step %d", node.id, validation.perplexity, validation.step)
        self._reporter.emit(TrainingValidated(node=node.id, validation=validation))
        self._site.metrics.validated(node.id, validation)

    def _finished(self, node: Node, stored: StageResult, *, cached: bool) -> NodeResult:
        result = NodeResult(
            node=node.id, key=stored.key, cached=cached, artifacts=stored.artifacts, measured=stored.measured
        )
        log.info(
            "stage %s %s",
            node.id,
            "found in storage" if cached else f"made in {stored.measured.seconds:.1f} s",
        )
        self._reporter.emit(StageFinished(result=result))
        return result


def leave(code: int) -> None:
    """End the process now: stage threads may still wait on actors whose answers are not needed any more."""
    logging.shutdown()
    os._exit(code)
