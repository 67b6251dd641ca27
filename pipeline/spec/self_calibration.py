"""Calibration on text that the model writes itself."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from pipeline.canonical import Frozen
from pipeline.spec.prompts import TEXT, Prompts
from pipeline.spec.texts import Bos, Calibration, is_unset, text_tokens

OWN = "own text"


class SelfCalibration(Frozen):
    """The dense model continues `prompts`, one after the other and again from the first, drawing each token
    with `temperature` among the `top_k` most probable (None: among all) until EOS or `sequence_length`.

    Prompts with their continuations, each ended by EOS, are joined into one row, whose consecutive pieces are
    the samples. `bos` is that of calibration with cut `packed`. `batch_size` prompts are continued together;
    `chat` puts each prompt as a user's message into the chat template of the model. The method follows
    Williams et al., arXiv 2410.17170, who calibrate on text sampled from the model.
    """

    source: Literal["self"]
    prompts: Prompts
    samples: int = Field(default=128, ge=1, le=100_000)
    sequence_length: int = Field(default=2048, ge=2, le=1_048_576)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    temperature: float = Field(default=1.0, gt=0, le=10)
    top_k: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=8, ge=1, le=4096)
    chat: bool = False
    bos: Bos | None = Field(default=None, exclude_if=is_unset)

    @property
    def text_length(self) -> int:
        """The number of tokens of text in a sample."""
        return text_tokens(self.sequence_length, self.bos)


def _origin(value: object) -> str:
    source = value.get("source") if isinstance(value, dict) else getattr(value, "source", None)
    return OWN if source == "self" else TEXT


AnyCalibration = Annotated[
    Annotated[Calibration, Tag(TEXT)] | Annotated[SelfCalibration, Tag(OWN)], Discriminator(_origin)
]
