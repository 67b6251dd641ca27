"""`reproducible: false` has keys of its own where sums are made, and nowhere else."""

import pytest

from tests.pipeline.dag.made_dags import PRUNED, WANDA, keys, planned

HESSIANS = {**WANDA, "method": {"kind": "sparsegpt"}}


@pytest.mark.parametrize(
    ("prune", "changed"),
    [
        (WANDA, set()),
        (HESSIANS, {"prune"}),
        ({**HESSIANS, "propagation": "dense"}, {"measure_statistics"}),
        ({**WANDA, "reconstruction": {}}, {"prune"}),
    ],
)
def test_only_stages_that_add_up_have_other_keys(prune: dict, changed: set[str]) -> None:
    ordered = keys(planned(**{**PRUNED, "prune": prune}))
    asked = keys(planned(**{**PRUNED, "prune": prune}, reproducible=True))
    free = keys(planned(**{**PRUNED, "prune": prune}, reproducible=False))
    assert asked == ordered
    assert {node for node in ordered if free[node] != ordered[node]} == changed
