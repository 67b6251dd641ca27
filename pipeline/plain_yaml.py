"""Reads YAML from outside in bounded time and memory.

An alias is a few bytes, and what it stands for may have aliases of its own, so that a file of 600 bytes can
stand for more values than fit into memory (the "billion laughs"). The values are counted before any is made.
"""

import yaml

MAX_VALUES = 200_000


def read_yaml(content: str | bytes, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> object:
    """Returns the only document of a YAML text, None if there is none. Raises yaml.YAMLError for what is no
    YAML, and for a document with more than MAX_VALUES values, those that aliases repeat included."""
    reader = loader(content)
    try:
        root = reader.get_single_node()
        if root is None:
            return None
        _count(root, {}, set())
        return reader.construct_document(root)
    finally:
        reader.dispose()


def _count(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Returns the number of values that a node stands for. `known`: those of nodes that were counted;
    `above`: the nodes that this one is a part of."""
    if id(node) in above:
        raise yaml.YAMLError(f"an alias contains itself{node.start_mark}")
    if id(node) not in known:
        above.add(id(node))
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[id(node)] = 1 + sum(_count(part, known, above) for part in parts)
        above.remove(id(node))
    if known[id(node)] > MAX_VALUES:
        raise yaml.YAMLError(f"it stands for more than {MAX_VALUES} values, aliases included")
    return known[id(node)]
