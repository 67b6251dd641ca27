"""The models and shapes that a target refuses, known from config.json alone.

Sources, read in the programs' own code: vLLM 0.32 (config/model.py, model_executor/layers/linear.py and
vocab_parallel_embedding.py), and llama.cpp as xllamacpp 2026.10 packs it.
"""

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from pipeline.architecture.rows import row_for
from pipeline.errors import InvalidSpec
from pipeline.serving.llama_cpp import check_gguf, rope_type
from pipeline.spec.targets import LlamaCpp, SecateurSparse, Target, Vllm
from pipeline.structure.sizes import Sizes

VOCABULARY_PADDING = 64  # vLLM pads the vocabulary to a multiple before it shares it out
K_BLOCK, SMALL_BLOCK = (
    256,
    32,
)  # weights of a row that llama.cpp's K-quants and its other quants pack together

# Model types whose graph with a key-value cache torch exports. The experts of mixtures have no ONNX form.
EXPORTED = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "opt",
    "gpt2",
    "gpt_neox",
    "falcon",
    "bloom",
)
EXPORTED_ROPES = ("default", "linear", "llama3", "yarn")  # others change with the length of a text


def check_target(
    target: Target, *, model_type: str, config: Mapping[str, JsonValue], sizes: Sizes, field: str
) -> None:
    """Raises InvalidSpec for a model that the target would refuse. `config`, `sizes`: those of the result."""
    if isinstance(target, LlamaCpp):
        check_gguf(model_type, config, field=field)
    elif isinstance(target, SecateurSparse):
        _check_plain(model_type, field=field)
        if target.llama_cpp:
            check_gguf(model_type, config, field=f"{field}.llama_cpp")
    elif isinstance(target, Vllm):
        check_shares(sizes, target.tensor_parallel, field=f"{field}.tensor_parallel")
    else:
        _check_exported(target, model_type, config, field=field)
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if isinstance(positions, int) and target.length > positions:
        raise InvalidSpec(
            f"prompt_tokens {target.prompt_tokens} and generated_tokens {target.generated_tokens} are "
            f"{target.length} positions, and the model has {positions}; use fewer",
            f"{field}.prompt_tokens",
        )


def slower_with(target: Target, sizes: Sizes) -> Iterator[str]:
    """Sentences about sizes that the target takes, with less than it could have."""
    if not isinstance(target, LlamaCpp):
        return
    for name in ("hidden_size", "intermediate_size"):
        size = getattr(sizes, name)
        if size is not None and size % SMALL_BLOCK:
            yield (
                f"{name}={size} is no multiple of {SMALL_BLOCK}, so llama.cpp cannot quantize these matrices "
                f"at all"
            )
        elif size is not None and size % K_BLOCK:
            yield (
                f"{name}={size} is no multiple of {K_BLOCK}, so llama-quantize takes larger types instead of "
                f"its K-quants (https://github.com/ggml-org/llama.cpp/pull/3747)"
            )


def _check_plain(model_type: str, *, field: str) -> None:
    if row_for(model_type).transposed:
        raise InvalidSpec(
            f"secateur_sparse: all linears of {model_type} are stored transposed, which no kernel takes, so "
            f"that nothing would run faster. Leave the target out",
            field,
        )


def _check_exported(target: Target, model_type: str, config: Mapping[str, JsonValue], *, field: str) -> None:
    if model_type not in EXPORTED:
        raise InvalidSpec(
            f"{target.kind}: {model_type} is not exported here; types that are: {', '.join(EXPORTED)}. Leave "
            f"the target out, or use vllm",
            field,
        )
    if config.get("alibi"):
        raise InvalidSpec(
            f"{target.kind}: {model_type} with alibi (config.json) is not exported here; leave the target "
            f"out, or use vllm",
            field,
        )
    if (rope := rope_type(config)) not in EXPORTED_ROPES:
        raise InvalidSpec(
            f"{target.kind}: rotary scaling of type {rope!r} (config.json) depends on the length of a text, "
            f"which an exported graph cannot; types that are exported: {', '.join(EXPORTED_ROPES)}. Leave "
            f"the target out, or use vllm",
            field,
        )


def check_shares(sizes: Sizes, ranks: int, *, field: str) -> None:
    """Raises InvalidSpec unless vLLM can share a model of these sizes among `ranks` GPUs."""
    padded = -(-sizes.vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING
    shared = {
        "num_attention_heads": sizes.num_attention_heads,
        "intermediate_size": sizes.intermediate_size,
        "moe_intermediate_size": sizes.moe_intermediate_size,
        "shared_expert_intermediate_size": sizes.shared_expert_intermediate_size,
        f"vocab_size, padded to {VOCABULARY_PADDING},": padded,
    }
    refused = [f"{name}={size}" for name, size in shared.items() if size is not None and size % ranks]
    groups = sizes.num_key_value_heads
    if groups % ranks and ranks % groups:  # with more ranks than heads, each head lies on several
        refused.append(f"num_key_value_heads={groups}")
    if refused:
        fit = [
            n
            for n in range(1, ranks)
            if not any(size is not None and size % n for size in shared.values())
            and not (groups % n and n % groups)
        ]
        raise InvalidSpec(
            f"vllm: tensor_parallel={ranks} does not divide {', '.join(refused)} of the result; ranks below "
            f"it that do: {', '.join(map(str, fit))}. Use one of them, or other sizes in spec.structure",
            field,
        )
