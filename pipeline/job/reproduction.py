"""The verdict on a job that did the work of an earlier one again: identical, or where they first differ."""

from pipeline.canonical import Frozen


class Difference(Frozen):
    """The first difference in the order of the DAG. `tensor`: the first tensor of the file with other bytes,
    and `largest`: the largest absolute difference of its values, where they are finite."""

    node: str
    artifact: str
    file: str | None = None
    tensor: str | None = None
    largest: float | None = None
    detail: str

    def __str__(self) -> str:
        place = f"{self.node}/{self.artifact}" + (f", {self.file}" if self.file is not None else "")
        return f"{place}: {self.detail}"


class Reproduction(Frozen):
    """The verdict. `job`: the earlier job; `artifacts`: the number of its artifacts that were found equal."""

    job: str
    artifacts: int
    difference: Difference | None = None

    @property
    def identical(self) -> bool:
        """Tells whether every artifact has the same bytes."""
        return self.difference is None

    def __str__(self) -> str:
        if self.difference is None:
            return f"identical with {self.job}: {self.artifacts} artifacts have the same bytes"
        return f"differs from {self.job}, first at {self.difference}"
