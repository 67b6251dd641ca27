"""The content of a source when the job was accepted, so that every attempt works on the same bytes."""

from pydantic import BaseModel, Field, JsonValue, model_validator

from pipeline.canonical import Frozen
from pipeline.sources.earlier_pins import translated
from pipeline.spec.source_fields import source_fields

MODEL = "spec.model.source"
TEACHER = "spec.recovery.objective.teacher.source"


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
    `config`: the content of config.json, without the settings that transformers does not load. `wrapper`: of
    a multimodal checkpoint, the content of config.json; everything else is that of its language model.
    `notes`: what a reader of the result must know about it.
    """

    model_type: str
    blocks: int
    max_positions: int | None
    hidden_size: int | None = None
    vocabulary: int | None = None
    parameters: int | None = None
    config: dict[str, JsonValue] = Field(default_factory=dict)
    wrapper: dict[str, JsonValue] | None = None
    notes: tuple[str, ...] = ()

    @property
    def whole_config(self) -> dict[str, JsonValue]:
        """The content of config.json, also of a multimodal checkpoint."""
        return self.config if self.wrapper is None else self.wrapper


class Pins(Frozen):
    """All sources of one spec, resolved.

    `sources`: by the path of the field that names the source, such as `spec.recovery.text.source` or
    `spec.evaluation.perplexity.0.source`. `models`: the facts about those that are checkpoints.
    """

    sources: dict[str, Pin]
    models: dict[str, ModelFacts]

    @property
    def facts(self) -> ModelFacts:
        """The facts about the model that is pruned."""
        return self.models[MODEL]

    def of(self, field: str) -> Pin:
        """Returns the source that a field names. Raises KeyError, which lists the existing fields."""
        if field not in self.sources:
            raise KeyError(f"{field} is not pinned; these fields are: {', '.join(self.sources)}")
        return self.sources[field]

    def below(self, part: BaseModel | tuple[BaseModel, ...], at: str) -> tuple[Pin, ...]:
        """Returns all sources in the part of the spec at the path `at`, in the order of its fields."""
        return tuple(self.of(field.path) for field in source_fields(part, at))

    @model_validator(mode="before")
    @classmethod
    def _earlier_form(cls, document: object) -> object:
        """Accepts the form of earlier versions, which stored jobs with one field for each source."""
        return translated(document) if isinstance(document, dict) and "model" in document else document
