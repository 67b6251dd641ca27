"""onnxruntime: an ONNX graph with a key-value cache, written and opened."""

from pathlib import Path

from workers.targets.cached import IDS, LOGITS, Arrays, CachedSession
from workers.targets.consumer import Opening, exported_file

FILE = "model.onnx"


def export(directory: Path, out: Path) -> None:
    """Write `model.onnx`, and its weights in `model.onnx.data`."""
    from workers.targets.onnx_graph import write_onnx  # the process that opens it has no torch

    write_onnx(directory, out / FILE)


def open_session(opening: Opening) -> CachedSession:
    """Open the graph on the CPU."""
    return CachedSession(_Graph(opening))


class _Graph:
    def __init__(self, opening: Opening) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = opening.threads
        self._session = onnxruntime.InferenceSession(
            exported_file(opening, ".onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.version = str(onnxruntime.__version__)
        self._outputs = [output.name for output in self._session.get_outputs()]
        assert self._outputs[0] == LOGITS, self._outputs
        self.cache = {
            given.name: tuple(size if isinstance(size, int) else 0 for size in given.shape)
            for given in self._session.get_inputs()
            if given.name != IDS
        }

    def run(self, feed: Arrays) -> Arrays:
        """One pass."""
        return dict(zip(self._outputs, self._session.run(None, feed), strict=True))
