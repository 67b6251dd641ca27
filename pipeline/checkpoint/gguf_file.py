"""What a GGUF file states, and whether the model that transformers makes of it has all of that.

transformers skips tensors and settings that it does not know.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import JsonValue

from pipeline.checkpoint.gguf_rope import ROPE_FREQS, Floats, llama3_scaling
from pipeline.errors import UnsupportedCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Settings of the file, without the name of its architecture, and the fields of config.json that must agree.
STATED = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "expert_used_count": "num_experts_per_tok",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
WINDOW = "attention.sliding_window"
NOT_READ = {  # settings that transformers does not read for every type
    "attention.key_length": "head_dim",
    WINDOW: "sliding_window",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
HEAD, EMBEDDING = "output.weight", "token_embd.weight"
READ_AS = "the config that transformers makes of it has"


class GGUFFile:
    """One file. Its tensors stay on disk until they are asked for."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self._path = path
        self._reader = GGUFReader(path)

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(tensor.name for tensor in self._reader.tensors)

    @cached_property
    def settings(self) -> Mapping[str, JsonValue]:
        """The settings of the model by their names without the architecture's, such as `block_count`."""
        architecture = self._reader.fields["general.architecture"].contents()
        prefix = f"{architecture}."
        return {
            name.removeprefix(prefix): field.contents()
            for name, field in self._reader.fields.items()
            if name.startswith(prefix)
        }

    def values(self, name: str) -> Floats:
        """Returns one tensor, expanded."""
        from gguf import dequantize

        found = next(tensor for tensor in self._reader.tensors if tensor.name == name)
        return np.asarray(dequantize(found.data, found.tensor_type), dtype=np.float64)

    def check_consumed(self, model: "PreTrainedModel") -> None:
        """Raises UnsupportedCheckpoint unless every tensor went into the model, or into its config."""
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        architecture = self._reader.fields["general.architecture"].contents()
        processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
        known = set(get_gguf_hf_weights_map(model, processor))
        left = [
            name
            for name in self.tensors
            if name not in known and name.removesuffix(".weight") not in known and name != ROPE_FREQS
        ]
        if left:
            raise self._refused(
                f"has {len(left)} of {len(self.tensors)} tensors for which transformers' "
                f"{model.config.model_type} has no place: {', '.join(left[:5])}"
            )
        one_matrix = model.config.tie_word_embeddings and HEAD in self.tensors
        if one_matrix and not np.array_equal(self.values(HEAD), self.values(EMBEDDING)):
            raise self._refused(
                f"has {HEAD} and {EMBEDDING}, which differ, and transformers reads this type with one matrix "
                f"for both"
            )

    def complete(self, config: "PreTrainedConfig") -> None:
        """Puts into a config what transformers did not read. Raises UnsupportedCheckpoint for a setting that
        it contradicts or cannot express."""
        for setting, field in NOT_READ.items():
            if self.settings.get(setting) is not None and hasattr(config, field):
                setattr(config, field, self.settings[setting])
        rope = self._rope(config)
        if rope:
            config.rope_parameters = {**config.rope_parameters, **rope}
        for setting, field in {**STATED, WINDOW: "sliding_window"}.items():
            stated, read = self.settings.get(setting), getattr(config, field, None)
            unknown = not hasattr(config, field) and (field.endswith("softcapping") or setting == WINDOW)
            if stated is not None and (unknown or (read is not None and not _same(stated, read))):
                raise self._refused(f"states {setting}={stated}, and {READ_AS} {field}={read}")

    def _rope(self, config: "PreTrainedConfig") -> dict[str, JsonValue]:
        """Returns the fields of `rope_parameters` that the file states and transformers did not read."""
        kind, factor = (self.settings.get(f"rope.scaling.{name}") for name in ("type", "factor"))
        scaled = kind not in (None, "none") and not _same(factor or 1.0, 1.0)
        rope: Mapping[str, JsonValue] | None = getattr(config, "rope_parameters", None)
        if scaled and rope is not None and kind == "linear":
            linear: dict[str, JsonValue] = {"rope_type": "linear", "factor": factor}
            whole = rope.get("full_attention")  # where blocks differ, only those without a window are scaled
            return {"full_attention": {**whole, **linear}} if isinstance(whole, dict) else linear
        if scaled:
            raise self._refused(f"states rope.scaling.type={kind}, which transformers does not read")
        if rope is None:
            return {}
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rotated = self.settings.get("rope.dimension_count", head_dim)
        share = rope.get("partial_rotary_factor") or 1.0
        if not isinstance(share, int | float) or rotated != int(head_dim * share):
            raise self._refused(
                f"states rope.dimension_count={rotated}, and {READ_AS} partial_rotary_factor={share} of "
                f"head_dim={head_dim}"
            )
        if ROPE_FREQS not in self.tensors:
            return {}
        factors_F, theta = self.values(ROPE_FREQS).reshape(-1), rope.get("rope_theta")
        plain = rope.get("rope_type") == "default" and len(factors_F) * 2 == rotated
        if not plain or not isinstance(theta, float):
            raise self._refused(
                f"has {len(factors_F)} values in {ROPE_FREQS}, and {READ_AS} rope_parameters={dict(rope)}"
            )
        return llama3_scaling(factors_F, theta=theta)

    def _refused(self, why: str) -> UnsupportedCheckpoint:
        return UnsupportedCheckpoint(
            f"{self._path} {why}; convert the checkpoint that the GGUF file was made from"
        )


def _same(stated: JsonValue, read: object) -> bool:
    if isinstance(stated, int | float) and isinstance(read, int | float):
        return math.isclose(stated, read, rel_tol=1e-6)
    return stated == read
