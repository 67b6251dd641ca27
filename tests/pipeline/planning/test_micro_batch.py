"""The number that `micro_batch_size: auto` becomes, and what may be asked for beside it."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.job.estimate import Estimate
from pipeline.planning.fits import checked_estimates
from pipeline.planning.micro_batch import FILLED, Settled, settled
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.training_memory import training_memory
from pipeline.sources.pins import ModelFacts
from tests.made_pins import made_pins
from tests.pipeline.planning.test_estimates import PRUNE, RECOVERY, TEXT, pins_of, request

GPU = {"workers": 8, "memory_per_gpu": "80GiB"}
AUTO = {"micro_batch_size": "auto", "zero_stage": 3}


def asked(
    recovery: dict[str, Any] | None = None, *, spec: dict[str, Any] | None = None, **gpu: Any
) -> JobRequest:
    resources = {**GPU, **gpu, "recovery": {**AUTO, **(recovery or {})}}
    return request(resources=resources, **{"recovery": RECOVERY, **(spec or {})})


def size_of(found: Settled) -> int:
    return found.request.resources.recovery.micro_batch


def bytes_with(given: JobRequest, size: int) -> int:
    recovery = given.resources.recovery.model_copy(update={"micro_batch_size": size})
    resources = given.resources.model_copy(update={"recovery": recovery})
    assert given.spec.recovery is not None
    return training_memory(given.spec.recovery, resources, pins=pins_of(given), sparse=True).device


@pytest.mark.parametrize("memory", ["40GiB", "80GiB", "141GiB"])
def test_the_largest_part_of_a_workers_share_that_fits(memory: str) -> None:
    given = asked({"gradient_checkpointing": True}, memory_per_gpu=memory)
    found = settled(given, pins_of(given))
    size, limit = size_of(found), FILLED * int(memory.removesuffix("GiB")) * 2**30
    assert (8 % size, size > 1) == (0, True)
    assert bytes_with(given, size) <= limit
    assert size == 8 or bytes_with(given, 2 * size) > limit
    assert found.note is not None
    assert found.note.startswith(f"micro_batch_size auto: {size} of the 8 sequences")
    assert "resources.memory_per_gpu" in found.note


def test_one_where_not_even_one_fits_and_then_it_is_refused_with_the_field() -> None:
    given = asked({"zero_stage": 1}, memory_per_gpu="24GiB")
    assert size_of(settled(given, pins_of(given))) == 1
    with pytest.raises(Exception, match="recover needs at least"):
        checked_estimates(given, pins_of(given))


def test_without_gpus_it_is_the_memory_of_the_machine() -> None:
    small = asked(gpus_per_worker=0, memory_per_gpu=None, memory_per_worker="64GiB")
    large = asked(gpus_per_worker=0, memory_per_gpu=None, memory_per_worker="512GiB")
    found = [settled(given, pins_of(given)) for given in (small, large)]
    assert size_of(found[0]) < size_of(found[1])
    assert "resources.memory_per_worker" in str(found[1].note)


def test_masks_and_recovery_of_one_job_share_a_size() -> None:
    training = {"text": TEXT, "steps": 100, "global_batch_size": 32, "precision": "bfloat16"}
    prune = {**PRUNE, "method": {"kind": "maskllm", "training": training}}
    given = asked({"gradient_checkpointing": True}, spec={"prune": prune}, memory_per_gpu="1TiB")
    assert size_of(settled(given, pins_of(given))) == 4  # a worker's shares are 8 and 4 sequences


@pytest.mark.parametrize("trains", [{"kind": "reconstruction"}, {"kind": "full"}])
def test_where_the_account_cannot_tell_it_is_one(trains: dict[str, str]) -> None:
    recovery = {**RECOVERY, "trains": trains}
    if trains["kind"] == "reconstruction":
        recovery |= {"global_batch_size": 64}
    given = asked(spec={"recovery": recovery})
    facts = ModelFacts(model_type="llama", blocks=2, max_positions=None)
    pins = pins_of(given) if trains["kind"] == "reconstruction" else made_pins(given.spec, facts=facts)
    found = settled(given, pins)
    assert (size_of(found), "block by block" in str(found.note)) == (1, True)


def test_a_number_stays_and_so_does_a_job_that_trains_nothing() -> None:
    number = asked({"micro_batch_size": 2})
    assert settled(number, pins_of(number)) == Settled(number)
    plain = request(resources={**GPU, "recovery": AUTO})
    assert settled(plain, pins_of(plain)) == Settled(plain)


def test_estimates_are_those_of_the_number() -> None:
    given = asked({"gradient_checkpointing": True})
    number = settled(given, pins_of(given)).request

    def estimates(one: JobRequest) -> tuple[Estimate, ...]:
        return checked_estimates(one, pins_of(one))

    assert estimates(given) == estimates(number)


@pytest.mark.parametrize(
    ("recovery", "gpu", "field"),
    [
        ({}, {"memory_per_gpu": None}, "recovery.micro_batch_size"),
        ({"gradient_accumulation_steps": 2}, {}, "recovery.gradient_accumulation_steps"),
        ({"micro_batch_size": "automatic"}, {}, "recovery.micro_batch_size"),
        ({"compile": True}, {}, "recovery.compile"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(
    recovery: dict[str, Any], gpu: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        asked(recovery, **gpu)
    where = [".".join(str(part) for part in error["loc"]) for error in refused.value.errors()]
    assert any(field in one for one in where), where
