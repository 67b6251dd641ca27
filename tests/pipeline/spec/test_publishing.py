"""`publish` in a spec: who leaves it out has the stage keys of the time before."""

import pytest
from pydantic import ValidationError

from pipeline.canonical import canonical_json
from pipeline.dag.stages.serving import OpenTarget
from pipeline.request.prune_spec import PruneSpec

BODY = {
    "model": {"source": "file:/m"},
    "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}},
}


def test_a_spec_that_publishes_no_packed_weights_says_nothing_of_them() -> None:
    assert b"publish" not in canonical_json(PruneSpec.model_validate(BODY))
    assert b"publish" in canonical_json(PruneSpec.model_validate({**BODY, "publish": {"sparse": "bf16"}}))
    assert b"values" not in canonical_json(OpenTarget(target="vllm"))


def test_other_types_of_values_are_refused() -> None:
    with pytest.raises(ValidationError, match="'float32', 'bf16' or 'int8'"):
        PruneSpec.model_validate({**BODY, "publish": {"sparse": "int4"}})
