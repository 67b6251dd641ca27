"""Figures may be compared only where all models were measured under the same contract."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from pipeline.canonical import Frozen
from pipeline.errors import StageError

OWN = frozenset({"tokenizer_digest", "windows", "tokens_scored", "tokens_per_byte"})  # of the tokenizer
ELSEWHERE = frozenset({"device"})  # may differ within a job: what is stored may come from another machine
LATER = frozenset({"split", "device", "dataset", "documents_digest"})  # not recorded by earlier versions
T = TypeVar("T")
Contract = TypeVar("Contract", bound=Frozen)


class Measured(Protocol):
    """A contract that names the device on which a figure was measured."""

    @property
    def device(self) -> str | None:
        """`cpu`, or the name of the GPU; None where it was not recorded."""
        ...


class UnequalContracts(StageError):
    """Two figures that may not be compared."""

    code = "unequal_contracts"
    blame = "bug"  # the stages of one job measure under one contract


def others_of(pruned: T | None, recovered: T | None) -> dict[str, T]:
    """The models that a job has beside the dense one, by name."""
    given = {"pruned": pruned, "recovered": recovered}
    return {which: one for which, one in given.items() if one is not None}


def final_of(pruned: float | None, recovered: float | None) -> float:
    """The figure of the model that is published."""
    final = pruned if recovered is None else recovered
    assert final is not None, "a comparison has a model beside the dense one"
    return final


def check_same_names(dense: Sequence[str], other: Sequence[str], which: str, what: str) -> None:
    """Raise UnequalContracts unless both models were evaluated on the same names in the same order."""
    if dense != other:
        raise UnequalContracts(
            f"dense was evaluated on {dense}, {which} on {other}; evaluate both on the same {what}"
        )


def check_same_contract(
    dense: Contract,
    other: Contract,
    which: str,
    what: str,
    *,
    but: frozenset[str],
    against: str = "dense",
) -> None:
    """Raise UnequalContracts that lists the differing fields of two contracts. Fields in `but` may differ.

    `against` and `which` name the models. None is a value like any other, and differs from all others; but a
    field of LATER that is None on one side was not recorded there, and is not compared.
    """
    before, after = dense.model_dump(), other.model_dump()
    ignored = but | unrecorded(dense, other)
    differing = [
        f"{field} is {before.get(field)} for {against} and {after.get(field)} for {which}"
        for field in {**before, **after}  # some are left out where they are None
        if before.get(field) != after.get(field) and field not in ignored
    ]
    if differing:
        raise UnequalContracts(f"{what} is not comparable: {'; '.join(differing)}")


def unrecorded(one: Contract, other: Contract) -> frozenset[str]:
    """The fields that one of two contracts lacks, because it was stored before they were recorded."""
    before, after = one.model_dump(), other.model_dump()
    return frozenset(
        field for field in LATER & before.keys() if (before[field] is None) != (after[field] is None)
    )


def other_devices(contracts: Mapping[str, Measured], what: str) -> Iterator[str]:
    """A sentence if models, by name, were measured on different devices. `what`: such as `figures were`."""
    devices = {which: contract.device or "a device not recorded" for which, contract in contracts.items()}
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{which} on {device}" for which, device in devices.items())
        yield f"{what} measured on different devices ({where}), which round differently"
