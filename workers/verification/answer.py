"""The answer of a process that opens a model."""

from pipeline.canonical import Frozen
from pipeline.errors import VerificationFailed
from workers.memory import peak_memory_bytes
from workers.verification.opening import OpenedModel, Opening, open_model


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


def answer_to(opening: Opening) -> Answer:
    """Opens a model in this process."""
    try:
        return Answer(opened=open_model(opening), peak_memory_bytes=peak_memory_bytes())
    except VerificationFailed as error:
        return Answer(failure=error.message, peak_memory_bytes=peak_memory_bytes())
