"""What a form of pruning gains in a target: a table of facts with their sources.

A pruned weight is a stored zero. It saves time only in a program that skips it. Of these only
secateur_sparse does so for weights in 16 or 32 bits. Smaller sizes are smaller in every program.
"""

from collections.abc import Iterator
from typing import Literal

from pipeline.canonical import Frozen
from pipeline.spec.targets import TARGET_KINDS, TargetKind

TABLE_VERSION = 3  # raise it when a fact changes

Form = Literal["unstructured", "nm", "smaller sizes", "smaller vocabulary"]
ZEROS: tuple[Form, ...] = ("unstructured", "nm")

_VLLM = "https://github.com/vllm-project/vllm/pull/36799"
_LLAMA_CPP = "https://github.com/ggml-org/llama.cpp/issues/3594"
_ONNXRUNTIME = "https://github.com/microsoft/onnxruntime/issues/5578"
_OPENVINO = (
    "https://docs.openvino.ai/2025/api/c_cpp_api/group__ov__runtime__cpu__prop__cpp__api.html "
    "(CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE)"
)
_MEASURED = "docs/structure.md, Measured: with 77 % of the weights, 1.20 to 1.33 times the tokens a second"


class Gain(Frozen):
    """One fact. `gains`: none, about the share of the weights that are gone, or what was measured, which
    `why` says."""

    target: TargetKind
    form: Form
    gains: Literal["nothing", "its share", "what was measured"]
    why: str
    sources: tuple[str, ...]


_SPARSE = "docs/sparse-kernels.md"
_MOST_DENSITY = "Linears with more than four fifths of their weights left stay dense"


def _zeros(target: TargetKind, why: str, source: str) -> Iterator[Gain]:
    for form in ZEROS:
        yield Gain(target=target, form=form, gains="nothing", why=why, sources=(source,))


def _sizes(target: TargetKind) -> Iterator[Gain]:
    yield Gain(
        target=target,
        form="smaller sizes",
        gains="its share",
        why="generation reads every weight once for a token, and there are fewer of them",
        sources=(_MEASURED,),
    )
    yield Gain(
        target=target,
        form="smaller vocabulary",
        gains="its share",
        why="the head, which is read once for a token, has fewer rows; a text may need more tokens",
        sources=(_MEASURED,),
    )


GAINS: tuple[Gain, ...] = (
    *_zeros(
        "vllm",
        "vLLM has removed its kernels for 2:4 weights, never had any for single zeros, and multiplies by "
        "zeros as by any other weight",
        _VLLM,
    ),
    *_zeros(
        "llama.cpp", "llama.cpp has no sparse types of weights: its files store zeros like others", _LLAMA_CPP
    ),
    *_zeros(
        "onnxruntime",
        "onnxruntime has no kernels for sparse weights: it makes sparse initializers dense as it loads them",
        _ONNXRUNTIME,
    ),
    *_zeros(
        "openvino",
        "OpenVINO packs zeros only in matrices quantized to int8, on CPUs with AMX, and what is published "
        "here is float32",
        _OPENVINO,
    ),
    Gain(
        target="secateur_sparse",
        form="unstructured",
        gains="what was measured",
        why="its kernels read bits and values instead of zeros: with 70 % zeros a Llama of 1.1 billion "
        "weights generates 1.7 times as fast as with dense kernels of the same make in bfloat16, and reads "
        "prompts 3.7 times as fast as torch in float32. Small models, which fit into caches, gain little. "
        "llama.cpp's dense Q4_0 generates 1.4 times as fast still, at another perplexity. "
        f"{_MOST_DENSITY}",
        sources=(_SPARSE,),
    ),
    Gain(
        target="secateur_sparse",
        form="nm",
        gains="what was measured",
        why="at 2:4, on CPUs with AVX-512, a kernel of its own multiplies one token with the values alone: "
        "1.4 to 2.2 times as fast as dense kernels of the same make in bfloat16, and 1.1 to 1.25 times in "
        f"int8. Other patterns run by the kernels for unstructured zeros. {_MOST_DENSITY}",
        sources=(_SPARSE,),
    ),
    *(gain for target in TARGET_KINDS for gain in _sizes(target)),
)


def gain_of(target: TargetKind, form: Form) -> Gain:
    """The fact about a form in a target."""
    (found,) = (gain for gain in GAINS if (gain.target, gain.form) == (target, form))
    return found
