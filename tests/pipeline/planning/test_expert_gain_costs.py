"""A sweep that measures what experts give takes longer, and more memory, where there are experts."""

from pipeline.planning.machine import cpus
from pipeline.planning.place import Cost, Place, Samples
from pipeline.planning.pruning import Walk, walk_cost
from pipeline.planning.table import model
from pipeline.tensor.needs import Needs

PLAIN: Needs = frozenset(("channel_score", "similarity"))


def cost(name: str, needs: Needs) -> Cost:
    shape, _ = model(name)
    return walk_cost(shape, Samples(128, 2048), Place(cpus(2)), Walk(measures=needs))


def test_experts_run_once_more() -> None:
    plain, gains = cost("8x22B", PLAIN), cost("8x22B", PLAIN | {"expert_gain"})
    assert 0.5 < (gains.parts["statistics"] - plain.parts["statistics"]) / plain.parts["forward"] < 1
    assert plain.host < gains.host < 1.2 * plain.host
    assert cost("7B", PLAIN) == cost("7B", PLAIN | {"expert_gain"})
