"""The site of a job in this process: stages run one after the other, without Ray, with the same bits."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from pipeline.artifacts.curve import StepRecord, Validation
from pipeline.blocks.local import LocalCrew
from pipeline.checkpoint.skeleton import import_library
from pipeline.dag.stages import Stage
from pipeline.dag.stages.training import LearnMasks, Recover
from pipeline.errors import InvalidSpec
from pipeline.job.ledger import WorkOrder
from pipeline.request.resources import Resources
from pipeline.spec.model import Dtype
from pipeline.tensor.devices import exact_products, free_gpu
from pipeline.tensor.dtypes import TORCH_DTYPES
from workers.budget import activation_budget
from workers.context import Made, Note, StageContext, Steps, Waited
from workers.harness.asker import Asker
from workers.memory import give_back, peak_memory_bytes, reset_peak_memory
from workers.places import PLACES

P = ParamSpec("P")
Answer = TypeVar("Answer")
_TRAINS = (
    "trains with DeepSpeed under Ray Train, and there is no Ray here; use `secateur run SPEC.yaml`, which "
    "starts one on this machine, or leave it out"
)


class LocalSite:
    """See Site. The crew has one worker; `resources` say its threads and memory, and whether it has a GPU."""

    workers = 1
    threads = 1

    def __init__(self, order: WorkOrder) -> None:
        self._resources = order.request.resources
        self._keeper = LocalKeeper(self._resources)
        self._asker = Asker()
        self.metrics = _NoMetrics()

    def prepare(self, stages: Sequence[Stage]) -> None:
        """Import the runners. Raises InvalidSpec for stages that train."""
        for stage in stages:
            if isinstance(stage, Recover):
                raise InvalidSpec(f"recovery {_TRAINS}", "spec.recovery")
            if isinstance(stage, LearnMasks):
                raise InvalidSpec(f"learning masks {_TRAINS}", "spec.prune.method")
        for stage in stages:
            _ = PLACES[stage.kind].run

    def launch(self, stage: Stage, context: StageContext) -> Steps:
        """Run a stage here. Its peak memory is that of this process."""
        place = PLACES[stage.kind]
        reset_peak_memory()
        if place.where != "asker":
            self._asker.forget()
        helpers = {"gang": (self._keeper,), "asker": (self._asker,)}
        given: tuple[Any, ...] = helpers.get(place.where, ())
        cpus = self._resources.cpus_per_worker
        with _threads(cpus if place.part is None else self._resources.of(place.part).cpus_per_worker):
            for step in place.run(stage, context, *given):
                if isinstance(step, Made) and step.peak_memory_bytes is None:
                    step = replace(step, peak_memory_bytes=peak_memory_bytes())
                yield step
        give_back()


class LocalKeeper:
    """See Keeper: every turn has a crew of its own, in this process."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._common: dict[str, Any] = {}

    @contextmanager
    def turn(self) -> Iterator["LocalTurn"]:
        """A turn on a crew in this process; it starts at once."""
        yield LocalTurn(self._resources)

    def once(self, name: str, work: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
        """The result of a function that several stages need, computed for the first of them."""
        if name not in self._common:
            self._common[name] = work(*args, **kwargs)
        found: Answer = self._common[name]
        return found


class LocalTurn:
    """See Turn."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def open(
        self, context: StageContext, sequences: Sequence[Tensor], *, dtype: Dtype
    ) -> Generator[Note | Waited, None, LocalCrew]:
        """A crew of one worker, whose activations are limited as on a cluster."""
        share = self._resources.of("pruning")
        device = torch.device("cuda" if share.gpus_per_worker > 0 else "cpu")
        exact_products()
        import_library()  # before idle memory is measured
        free_gpu(device)
        yield from ()
        return LocalCrew(
            context.content,
            context.checkpoint(),
            sequences,
            dtype=TORCH_DTYPES[dtype],
            device=device,
            budget=activation_budget(share, device, used=peak_memory_bytes()),
            peak_memory=peak_memory_bytes,
        )


class _NoMetrics:
    """See Metrics: a process without a scraper keeps no figures."""

    def progressed(self, node: str, *, done: float, total: float) -> None:
        """Progress is not kept."""

    def trained(self, node: str, record: StepRecord) -> None:
        """Steps are not kept."""

    def validated(self, node: str, validation: Validation) -> None:
        """Validations are not kept."""


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Use as many threads as a worker of the same resources has, because the bits depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
