"""The part of a spec that asks for a smaller vocabulary."""

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec
from pipeline.spec.texts import TextSource

FIELD = "spec.structure.vocabulary"


class VocabularySize(Frozen):
    """Keep `size` tokens: those that must stay, and the ones that `texts` use most.

    `multiple_of`: the size is rounded up to a multiple of this value; matrix units are fast with multiples of
    64. `held_out`: the text on which the smaller tokenizer is verified. Without one, every 20th document of
    `texts` is not counted, and is used instead.
    """

    size: int = Field(ge=1)
    texts: tuple[TextSource, ...] = Field(min_length=1)
    multiple_of: int = Field(default=1, ge=1, le=65_536)
    held_out: TextSource | None = None

    @property
    def rows(self) -> int:
        """The number of rows of the smaller embedding."""
        return rounded_up(self.size, self.multiple_of)

    def check(self, rows: int) -> None:
        """Raise InvalidSpec if a model with this many rows has too few tokens."""
        if self.rows > rows:
            most = rows // self.multiple_of * self.multiple_of
            raise InvalidSpec(
                f"vocabulary.size={self.size} is {self.rows} as a multiple of {self.multiple_of}, more than "
                f"the model's {rows} rows; nearest valid: {most or 'none'}",
                f"{FIELD}.size",
            )


def rounded_up(size: int, multiple_of: int) -> int:
    """The smallest multiple that is not below `size`."""
    return -(-size // multiple_of) * multiple_of
