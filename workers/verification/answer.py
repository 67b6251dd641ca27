"""What the fresh process is asked, and what it answers. No library is imported here but pydantic, so that
whoever starts the process does not wait for others first.

Shape legend: L tokens of the prompt, V vocabulary.
"""

from pathlib import Path
from typing import Literal

from pipeline.artifacts.verification import OpenedTokenizer
from pipeline.canonical import Frozen
from pipeline.errors import VerificationFailed

LOGITS = "logits"


class Opening(Frozen):
    """What to open. `directory`: the fetched files; `aside`: an empty directory for the logits, and for
    weights that the library rearranges. `adapter`: the directory of a LoRA adapter below `directory`;
    `gguf`: the GGUF file there that is the whole model."""

    directory: Path
    aside: Path
    weights: Literal["in_memory", "from_disk"]
    threads: int
    adapter: str | None = None
    gguf: str | None = None

    @property
    def logits(self) -> Path:
        """The file that gets the logits [L, V] of the prompt."""
        return self.aside / "logits.safetensors"


class OpenedModel(Frozen):
    """What was found; see `Opened`. `prompt`: ids of the tokens whose logits were stored."""

    version: str
    model_class: str
    tensors: int
    tied: bool
    dtype: str
    prompt: tuple[int, ...]
    generated: int
    tokenizer: OpenedTokenizer | None
    adapter_tensors: int | None


class Answer(Frozen):
    """The model, or why it cannot be opened."""

    opened: OpenedModel | None = None
    failure: str | None = None
    peak_memory_bytes: int

    @property
    def model(self) -> OpenedModel:
        """The model. Raises VerificationFailed when it does not open."""
        if self.opened is None:
            raise VerificationFailed(self.failure or "the published model does not open")
        return self.opened
