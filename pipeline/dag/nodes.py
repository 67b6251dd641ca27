"""The nodes of a job's DAG: its stages with their inputs."""

from collections.abc import Mapping

from pipeline.artifacts.refs import ArtifactRef
from pipeline.canonical import Frozen
from pipeline.dag.stages import Stage, stage_key


class Input(Frozen):
    """An artifact of an earlier node."""

    node: str
    artifact: str


class Node(Frozen):
    """One stage of one job. `inputs`: the runner's name for each artifact → the node that makes it."""

    id: str
    stage: Stage
    inputs: dict[str, Input]

    @property
    def needs(self) -> frozenset[str]:
        """Ids of the nodes that must be done first."""
        return frozenset(source.node for source in self.inputs.values())


class Dag(Frozen):
    """The nodes of a job, in an order in which they may run one after the other."""

    nodes: tuple[Node, ...]

    def __getitem__(self, node_id: str) -> Node:
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)


def resolve_inputs(
    node: Node, made: Mapping[str, Mapping[str, ArtifactRef]]
) -> dict[str, ArtifactRef] | None:
    """The artifacts that a node takes; None if one is missing. `made`: node id → artifact name → artifact."""
    found = {}
    for name, source in node.inputs.items():
        artifact = made.get(source.node, {}).get(source.artifact)
        if artifact is None:
            return None
        found[name] = artifact
    return found


def node_key(
    node: Node, made: Mapping[str, Mapping[str, ArtifactRef]], *, salt: str | None = None
) -> str | None:
    """The stage key of a node; None while one of its inputs is not made yet. `salt`: see `stage_key`."""
    inputs = resolve_inputs(node, made)
    return None if inputs is None else stage_key(node.stage, inputs, salt=salt)
