"""The part of a spec that names the programs which shall run the result."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from pipeline.canonical import Frozen
from pipeline.spec.publishing import PackedValues

TargetKind = Literal["vllm", "llama.cpp", "onnxruntime", "openvino", "secateur_sparse"]
TARGET_KINDS: tuple[TargetKind, ...] = get_args(TargetKind)
GgufType = Literal["F32", "BF16", "Q8_0", "Q4_0"]
GGUF_TYPES: tuple[GgufType, ...] = get_args(GgufType)


def _once(types: tuple[GgufType, ...]) -> tuple[GgufType, ...]:
    twice = sorted({one for one in types if types.count(one) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is named twice; each type may be asked for once")
    return types


class _Target(Frozen):
    """What is measured in a target. Each of `rounds` opens the dense and the final model once, in turn, and
    generates `generated_tokens` after a prompt of `prompt_tokens`. `threads`: CPUs that the target may use;
    left out, those of a worker. `reads_exports`: True if the target reads files of its own."""

    prompt_tokens: int = Field(default=128, ge=1, le=131_072)
    generated_tokens: int = Field(default=64, ge=2, le=131_072)
    rounds: int = Field(default=3, ge=1, le=100)
    threads: PositiveInt | None = None

    reads_exports: ClassVar[bool] = True

    @property
    def length(self) -> int:
        """The positions that a measurement takes."""
        return self.prompt_tokens + self.generated_tokens


class Vllm(_Target):
    """vLLM reads the published checkpoint itself. `tensor_parallel`: the number of GPUs that share it."""

    reads_exports: ClassVar = False
    kind: Literal["vllm"] = "vllm"
    tensor_parallel: PositiveInt = 1


class LlamaCpp(_Target):
    """llama.cpp reads a GGUF file, which is published beside the checkpoint, with weights of its type."""

    kind: Literal["llama.cpp"] = "llama.cpp"


class OnnxRuntime(_Target):
    """onnxruntime reads an ONNX graph with a key-value cache, which is published beside the checkpoint, in
    float32."""

    kind: Literal["onnxruntime"] = "onnxruntime"


class OpenVino(_Target):
    """OpenVINO reads its own format, which is published beside the checkpoint, in float32."""

    kind: Literal["openvino"] = "openvino"


class SecateurSparse(_Target):
    """transformers with the sparse linears of `secateur.sparse` reads the published checkpoint itself, on the
    CPU, with activations in float32. `values`: the type of packed values; left out, one that holds those of
    the checkpoint to the bit. `llama_cpp`: types in which llama.cpp runs the dense model in the same rounds,
    to compare with. Where there are some, the perplexity of each on the texts of the evaluation is measured
    too."""

    reads_exports: ClassVar = False
    kind: Literal["secateur_sparse"] = "secateur_sparse"
    values: PackedValues | None = None
    llama_cpp: Annotated[tuple[GgufType, ...], AfterValidator(_once)] = Field(
        default=(), max_length=len(GGUF_TYPES), exclude_if=lambda types: not types
    )


Target = Annotated[Vllm | LlamaCpp | OnnxRuntime | OpenVino | SecateurSparse, Field(discriminator="kind")]


def _listed(value: object) -> object:
    """One target may be written without a list, and null is none."""
    if value is None:
        return ()
    return (value,) if isinstance(value, Mapping | _Target) else value


def _different(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    kinds = [target.kind for target in targets]
    twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is named twice; each target may be asked for once")
    return targets


Targets = Annotated[
    tuple[Target, ...],
    BeforeValidator(_listed, json_schema_input_type=Target | tuple[Target, ...] | None),
    AfterValidator(_different),
    Field(max_length=len(TARGET_KINDS)),
]
