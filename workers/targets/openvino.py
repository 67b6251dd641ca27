"""OpenVINO: its intermediate representation, made of an ONNX graph with a key-value cache, and opened."""

import tempfile
from pathlib import Path

from workers.targets.cached import IDS, Arrays, CachedSession
from workers.targets.consumer import Opening, exported_file

FILE = "model.xml"


def export(directory: Path, out: Path) -> None:
    """Write `model.xml`, and its weights in `model.bin`, in float32."""
    import openvino

    from workers.targets.onnx_graph import write_onnx  # the process that opens it has no torch

    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "model.onnx"
        write_onnx(directory, graph)
        openvino.save_model(openvino.convert_model(graph), out / FILE, compress_to_fp16=False)


def open_session(opening: Opening) -> CachedSession:
    """Open the representation on the CPU."""
    return CachedSession(_Graph(opening))


class _Graph:
    def __init__(self, opening: Opening) -> None:
        import openvino

        self.version = str(openvino.__version__)
        settings = {
            "INFERENCE_NUM_THREADS": opening.threads,
            "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 where the processor has it
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        compiled = core.compile_model(exported_file(opening, ".xml"), "CPU", settings)
        self._request = compiled.create_infer_request()
        self.cache = {
            given.any_name: tuple(size.get_length() if size.is_static else 0 for size in given.partial_shape)
            for given in compiled.inputs
            if given.any_name != IDS
        }

    def run(self, feed: Arrays) -> Arrays:
        """One pass. The outputs are copied, because the next pass writes over them."""
        made = self._request.infer(feed)
        return {output.any_name: value.copy() for output, value in made.items()}
