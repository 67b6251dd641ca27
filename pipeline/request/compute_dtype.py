"""Fills in the number type of a spec that leaves it open: on GPUs that of the checkpoint, on CPUs float32."""

from collections.abc import Mapping
from typing import get_args

from pydantic import JsonValue

from pipeline.architecture.rows import ROWS
from pipeline.checkpoint.config_json import dtype_of
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.model import Dtype


def with_compute_dtype(spec: PruneSpec, config: Mapping[str, JsonValue], *, gpus: float) -> PruneSpec:
    """Returns the spec with `compute_dtype` filled in. `config`: the model's config.json, which states the
    type of its weights. `gpus`: those of each worker. Checkpoints of other types than the three of a spec are
    computed in float32 everywhere, and so are those in float16 of a type that overflows in it."""
    if spec.compute_dtype is not None:
        return spec
    own = dtype_of(config)
    row = ROWS.get(str(config.get("model_type")))
    if own == "float16" and row is not None and "float16" in row.lacks:
        own = "float32"
    found: Dtype = next((one for one in get_args(Dtype) if gpus and one == own), "float32")
    return spec.model_copy(update={"compute_dtype": found})
