"""What quantizing loses after pruning: the demo's model at one half, in each form, beside dense and pruned.

One job prunes with Wanda and quantizes the result; every perplexity is that of what the files give back.

`--quick`: fewer and shorter calibration samples, and fewer windows.
"""

import json
import tempfile
from pathlib import Path

from jobs import calibration, evaluation, parser_of, run_job
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.quantized import QuantizedWeights
from pipeline.report.quantity import human_bytes
from workers.demo_data import prepare_demo

GROUP = 64  # rows of the model have 576 and 1536 weights
FORMS = {
    "gptq_int4": {"kind": "gptq", "group_size": GROUP},
    "rtn_int4": {"kind": "rtn", "group_size": GROUP},
    "gguf_q8_0": {"kind": "gguf", "weights": "Q8_0"},
    "gguf_q4_0": {"kind": "gguf", "weights": "Q4_0"},
}
NAMES = {
    "gptq_int4": f"gptq-int4-g{GROUP}",
    "rtn_int4": f"rtn-int4-g{GROUP}",
    "gguf_q8_0": "gguf-q8_0",
    "gguf_q4_0": "gguf-q4_0",
}
THREADS = 2


def main() -> None:
    """Print a table and one line of JSON."""
    arguments = parser_of(
        __doc__, quick="4 samples of 256 tokens instead of 16 of 512, 4 windows"
    ).parse_args()
    data = prepare_demo(arguments.data)
    samples, length, windows = (4, 256, 4) if arguments.quick else (16, 512, 16)
    request = {
        "spec": {
            "model": {"source": f"file:{data.model}"},
            "calibration": calibration(data, samples=samples, sequence_length=length),
            "prune": {
                "method": {"kind": "wanda"},
                "pattern": {"kind": "unstructured", "sparsity": 0.5},
            },
            "quantize": list(FORMS.values()),
            "evaluation": evaluation(data, windows=windows),
        },
        "resources": {"workers": 1, "cpus_per_worker": THREADS, "memory_per_worker": "4GiB"},
    }
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        ran = run_job("quantize", request, Path(name), here=True)
        figures: dict[str, float | bool] = {one: ran.perplexity(one) for one in ("dense", "pruned")}
        kept = []
        print("| model | perplexity | files | zeros kept | error of weights |\n|---|---:|---:|---:|---:|")
        for one in ("dense", "pruned"):
            print(f"| {one} | {figures[one]:.2f} | | | |")
        for key, form in NAMES.items():
            found = ran.load(f"quantize:{form}", "quantized", QuantizedWeights)
            certificate = ran.load(f"quantize:{form}", "quantized", Certificate)
            kept.append(certificate.holds and certificate.held == found.held <= found.zeros)
            figures[key] = ran.perplexity(form)
            print(
                f"| {form} | {figures[key]:.2f} | {human_bytes(found.bytes)} | {certificate.held:,} of "
                f"{found.held:,} | {found.error:.4f} |"
            )
    figures = {one: round(value, 3) for one, value in figures.items()}
    print(json.dumps({**figures, "zeros_kept": all(kept)}))


if __name__ == "__main__":
    main()
