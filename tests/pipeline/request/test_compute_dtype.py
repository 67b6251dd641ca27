"""The number type of a spec that leaves it open follows the checkpoint on GPUs, and is float32 on CPUs."""

import pytest

from pipeline.request.compute_dtype import with_compute_dtype
from pipeline.request.prune_spec import PruneSpec
from pipeline.request.resources import Resources
from tests.pipeline.dag.made_dags import PRUNED


def spec_of(**fields: object) -> PruneSpec:
    return PruneSpec.model_validate({"model": {"source": "file:/m"}, **PRUNED, **fields})


@pytest.mark.parametrize(
    ("stated", "gpus", "found"),
    [
        ({"dtype": "bfloat16"}, 0, "float32"),
        ({"dtype": "bfloat16"}, 1, "bfloat16"),
        ({"torch_dtype": "float16"}, 0.5, "float16"),
        ({"dtype": "float64"}, 1, "float32"),
        ({}, 8, "float32"),
    ],
)
def test_the_checkpoint_decides_on_gpus_only(stated, gpus: float, found: str) -> None:
    filled = with_compute_dtype(spec_of(), stated, gpus=gpus)
    assert filled.compute_dtype == filled.dtype == found


def test_a_type_that_is_set_stays() -> None:
    spec = spec_of(compute_dtype="float16")
    assert with_compute_dtype(spec, {"dtype": "bfloat16"}, gpus=1) is spec


def test_memory_of_a_gpu_is_a_size() -> None:
    assert Resources().of("pruning").gpu_memory_bytes is None
    assert Resources(memory_per_gpu="80GiB").of("pruning").gpu_memory_bytes == 80 * 2**30
    with pytest.raises(ValueError, match="write a whole number with KiB"):
        Resources(memory_per_gpu="80 GB")
