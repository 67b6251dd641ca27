"""The remedy for a loss that is not finite."""

from typing import get_args

from pipeline.spec.model import Dtype, way_to_finite


def test_nobody_is_sent_to_a_type_that_does_not_exist() -> None:
    for dtype in get_args(Dtype):
        assert "wider" not in way_to_finite(dtype)
        assert "prune less" in way_to_finite(dtype)
    assert "set compute_dtype" not in way_to_finite("float32")
    assert "set compute_dtype to float32" in way_to_finite("bfloat16")
