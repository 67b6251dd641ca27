"""What an import changed in a checkpoint, for everyone who reads the results of a job."""

from pipeline.canonical import Frozen


class ImportRemarks(Frozen):
    """Sentences. Only a checkpoint that was changed has them, and all that is made of it keeps them."""

    sentences: tuple[str, ...]
