"""What targets made of a published model: whether they agree with transformers, and how fast they are."""

from collections.abc import Mapping, Sequence
from statistics import median

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.spec.targets import GgufType, TargetKind


class TargetCheck(Frozen):
    """A target opened what is published, in a fresh process, and agrees with transformers.

    `tokens`: generated tokens of all prompts; `compared`: their log-probabilities that were compared.
    `difference`: the largest difference of one, in nats; at most `tolerance`. `gpus`: those that it used, 0
    on a CPU. `texts`: how many texts its own tokenizer cut into the same tokens; 0 if it has none.
    """

    target: TargetKind
    version: str
    prompts: int
    tokens: int
    compared: int
    difference: float
    tolerance: float
    gpus: int = 0
    texts: int = 0


class Spread(Frozen):
    """One figure over all rounds."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of some values, of which there is at least one."""
        return cls(least=min(values), median=median(values), most=max(values))


class Served(Frozen):
    """One model in a target. `prefill`, `decode`: tokens per second of the prompt, and of the generated
    tokens after the first one. `first_token`: seconds until it is there. `memory`: peak bytes of the process,
    with mapped files and without the memory of GPUs. `file_bytes`: what the target reads. `perplexity`: by
    the names of the texts, where it was measured in the target."""

    prefill: Spread
    decode: Spread
    first_token: Spread
    memory: Spread
    file_bytes: int
    perplexity: Mapping[str, float] = Field(default={}, exclude_if=lambda found: not found)


class Beside(Frozen):
    """The dense model in llama.cpp, with weights of a type."""

    type: GgufType
    version: str
    served: Served


class Serving(Frozen):
    """Content of `serving.json`: the dense and the final model in one target, measured in turn, one request
    at a time. `machine`: processor and GPUs. `dense_kernels`: the final model again, for a target that skips
    zeros, with kernels of the same make and type that do not. `beside`: the dense model in llama.cpp, in the
    same rounds."""

    target: TargetKind
    version: str
    prompt_tokens: int
    generated_tokens: int
    rounds: int
    threads: int
    gpus: int = 0
    machine: str
    dense: Served
    final: Served
    dense_kernels: Served | None = Field(default=None, exclude_if=lambda served: served is None)
    beside: tuple[Beside, ...] = Field(default=(), exclude_if=lambda found: not found)
