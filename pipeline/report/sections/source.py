"""The section with what was noticed while the model was imported. It has warnings and no figures."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.artifacts.remarks import ImportRemarks
from pipeline.artifacts.tensor_index import TensorIndex
from pipeline.checkpoint.leftovers import harmless, remark_on
from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection


class SourceSection(ModelSection):
    """The import of the dense model. `ignored`: stored tensors that no model reads; `changed`: what the
    import changed, in sentences."""

    ignored: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the index of the dense checkpoint, and its remarks."""
        index = inputs.find("dense_checkpoint", TensorIndex)
        remarks = inputs.find("dense_checkpoint", ImportRemarks)
        return {
            "ignored": () if index is None else tuple(sorted(harmless(index.tensors))),
            "changed": () if remarks is None else remarks.sentences,
        }

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """Tensors that are not read, and what was changed."""
        remark = remark_on(report.ignored)
        yield from report.changed
        if remark is not None:
            yield remark

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """Returns None: the warnings at the head of the page say everything."""
        return None
