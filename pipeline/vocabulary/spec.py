"""What a spec says about the vocabulary."""

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.texts import TextSource

FIELD = "spec.structure.vocabulary"


class VocabularySize(Frozen):
    """Keep the tokens that `texts` use most, with all that must stay, and `size` of them together.

    `multiple_of`: the size is rounded up to a multiple of it; matrix units are fast with multiples of 64.
    """

    size: int = Field(ge=1)
    texts: tuple[TextSource, ...] = Field(min_length=1)
    multiple_of: int = Field(default=1, ge=1, le=65_536)

    @property
    def rows(self) -> int:
        """Rows of the embedding that is asked for."""
        return rounded_up(self.size, self.multiple_of)


def rounded_up(size: int, multiple_of: int) -> int:
    """The next multiple that is not below `size`."""
    return -(-size // multiple_of) * multiple_of
