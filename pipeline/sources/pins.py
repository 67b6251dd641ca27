"""The content of a source when the job was accepted, so that every attempt works on the same bytes."""

from pydantic import Field, JsonValue

from pipeline.canonical import Frozen


class PinnedFile(Frozen):
    """One file of a source.

    `tag` identifies its content: `sha256:<hex>` if the content was hashed (files up to 256 MiB, and hub files
    with a known hash), `git:<object id>` for the hub's small files, `etag:<value>` on S3, `stat:<mtime_ns>`
    for large local files, whose SHA-256 is computed while they are imported. A hub dataset is one entry
    `datasets/org/name` without a size, `commit:<sha>`: it may have thousands of files, of which a job reads a
    few.
    """

    path: str
    size: int
    tag: str


class Pin(Frozen):
    """A source with its revision fixed. Only `files` enters stage keys: a copy elsewhere is the same."""

    source: str
    files: tuple[PinnedFile, ...]

    @property
    def size(self) -> int:
        """The number of bytes of all files together."""
        return sum(file.size for file in self.files)


class ModelFacts(Frozen):
    """The facts about a model that the API reads from its config.json, without loading it.

    `parameters`: the approximate number of weights, from the sizes of its files and the config's dtype.
    `config`: the content of config.json.
    """

    model_type: str
    blocks: int
    max_positions: int | None
    hidden_size: int | None = None
    vocabulary: int | None = None
    parameters: int | None = None
    config: dict[str, JsonValue] = Field(default_factory=dict)


class Pins(Frozen):
    """All sources of one spec, resolved. `perplexity` is parallel to `evaluation.perplexity`; `tasks`: the
    task files and data of `evaluation.tasks.include`; `vocabulary`: the texts of
    `structure.vocabulary`, and at last its `held_out`; `recovery`: the text of `recovery.text`; `teacher` and
    `teacher_facts`: of `recovery.objective.teacher`; `mask_text` and `prior`: of `prune.method`, where masks
    are learned; `compared`: of `prune.compare_with`."""

    model: Pin
    facts: ModelFacts
    calibration: Pin | None = None
    perplexity: tuple[Pin, ...] = ()
    tasks: Pin | None = None
    vocabulary: tuple[Pin, ...] = ()
    recovery: Pin | None = None
    mask_text: Pin | None = None
    prior: Pin | None = None
    compared: tuple[Pin, ...] = ()
    teacher: Pin | None = None
    teacher_facts: ModelFacts | None = None

    def checkpoint(self, files: tuple[PinnedFile, ...]) -> Pin:
        """The pin of the checkpoint that has these files: model or teacher."""
        return next(pin for pin in (self.model, self.teacher) if pin is not None and pin.files == files)

    def masks(self, files: tuple[PinnedFile, ...]) -> tuple[str, Pin]:
        """The pin of the stored masks that have these files, and the field that names them."""
        fields = [("spec.prune.method.prior.source", self.prior)]
        fields += [(f"spec.prune.compare_with.{i}.source", pin) for i, pin in enumerate(self.compared)]
        return next((field, pin) for field, pin in fields if pin is not None and pin.files == files)
