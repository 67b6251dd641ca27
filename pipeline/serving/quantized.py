"""The models that a quantized form cannot hold, known from config.json alone."""

from collections.abc import Mapping

from pydantic import JsonValue

from pipeline.architecture.rows import row_for
from pipeline.errors import InvalidSpec
from pipeline.serving.llama_cpp import check_gguf
from pipeline.spec.quantization import Fp8, Gguf, Quantization, check_groups
from pipeline.structure.sizes import Sizes

# Types that transformers does not open with weights in the format compressed-tensors: it initialises their
# linears anew while it loads them, and expects a weight there.
NOT_OPENED = ("falcon",)
GGUF_BLOCK = 32  # weights of a row that share a scale in Q8_0 and Q4_0


def check_quantization(
    form: Quantization, *, model_type: str, config: Mapping[str, JsonValue], sizes: Sizes, field: str
) -> None:
    """Raises InvalidSpec for a model that the form cannot hold. `config`, `sizes`: those of the result."""
    row = row_for(model_type)
    if row.experts is not None:
        raise InvalidSpec(
            f"{form.name}: {model_type} has experts, and their weights are not quantized here; leave it out, "
            f"and quantize the published checkpoint with the program that will serve it",
            field,
        )
    if isinstance(form, Gguf):
        check_gguf(model_type, config, field=field)
    elif row.transposed:
        raise InvalidSpec(
            f"{form.name}: all linears of {model_type} are stored transposed, which compressed-tensors does "
            f"not pack; leave it out",
            field,
        )
    elif model_type in NOT_OPENED:
        raise InvalidSpec(
            f"{form.name}: transformers does not open a {model_type} in the format compressed-tensors; leave "
            f"it out, and quantize the published checkpoint with the program that will serve it",
            field,
        )
    for size in _row_sizes(sizes):
        if isinstance(form, Gguf):
            if form.weights != "BF16" and size % GGUF_BLOCK:
                raise InvalidSpec(
                    f"{form.weights} packs {GGUF_BLOCK} weights of a row together, and rows of the result "
                    f"have {size}; use weights BF16, or sizes in spec.structure that are multiples of "
                    f"{GGUF_BLOCK}",
                    f"{field}.weights",
                )
        elif not isinstance(form, Fp8):
            check_groups(form.group_size, size, field=f"{field}.group_size")


def _row_sizes(sizes: Sizes) -> list[int]:
    """The lengths of rows of a block's linears."""
    attention = sizes.num_attention_heads * sizes.head_dim
    return [size for size in (sizes.hidden_size, attention, sizes.intermediate_size) if size is not None]
